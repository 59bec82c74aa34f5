"""What a phase is fed with: pictures in their order, decoded once where that is wanted, or features of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.utils.data import DataLoader

from fxcli.data import cache, dataset
from fxcli.data.augment import Augmenter
from fxcli.recipe.schema import Phase
from fxcli.training import features, losses
from fxcli.training.features import Features, TrainingFeatures
from fxcli.training.state import Training


@dataclass(frozen=True)
class Feed:
    """What a phase is fed with.

    Attributes:
        loader: Gives batches: pictures [B, 1, S, S] uint8, or features [B, D], and class indices [B].
        batches: The order behind it.
        class_weights: [K].
        features: Where they take the place of pictures.
    """

    loader: DataLoader[Any]
    batches: dataset.Batches
    class_weights: Tensor
    features: Features | None = None


def make(training: Training, *, check: Callable[[], None] | None) -> Feed:
    """Feeds the phase at hand, which is set up.

    Args:
        training: Keeps what was decoded, for its next phase.
        check: Called now and then while pictures are decoded or features computed; may raise to end it. Without one,
            nothing is kept: for a step or two that would not pay.

    Raises:
        UnreadableImage: A picture cannot be read.
    """
    _, phase = training.phases[training.place.phase]
    paths, targets = training.part("train")
    balanced = phase.train.sampler == "balanced"
    batches = dataset.Batches(targets, phase.train.batch_size, seed=training.recipe.seed, balanced=balanced)
    weights = losses.class_weights(phase.train, targets, len(training.model.classes)).to(training.compute.device)
    if check is not None and features.may_cache(training, phase):
        found = features.build(training, phase, check)
        augmenter = Augmenter(phase.augment, training.model.preprocessing)
        # Looking a row up takes no process.
        loader = dataset.loader(TrainingFeatures(found, targets, augmenter), batches, workers=0)
        return Feed(loader, batches, weights, found)
    pictures = _pictures(training, phase, paths, targets, check)
    return Feed(dataset.loader(pictures, batches, workers=training.workers), batches, weights)


def _pictures(
    training: Training, phase: Phase, paths: Sequence[Path], targets: Sequence[int], check: Callable[[], None] | None
) -> dataset.TrainingPictures:
    pictures = dataset.TrainingPictures(paths, targets, training.model.preprocessing, phase.augment)
    if check is not None:
        training.kept = pictures.kept = cache.keep(
            pictures.sight,
            training.recipe.data.cache,
            workers=dataset.default_workers() if training.workers is None else training.workers,
            before=training.kept,
            check=check,
        )
    return pictures
