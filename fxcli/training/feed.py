"""What a classifier's phase is fed with: pictures, decoded once where that is wanted, or features; and their loss."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from torch import Tensor
from torch.nn import functional

from fxcli.data import augment, dataset
from fxcli.data.augment import Augmenter
from fxcli.recipe.schema import Phase
from fxcli.run import randomness
from fxcli.training import features, losses, state, validate
from fxcli.training.features import TrainingFeatures
from fxcli.training.state import ClassifyTraining, Feed


def make(training: ClassifyTraining, check: Callable[[], None] | None) -> Feed:
    """Feeds the phase at hand, which is set up.

    Args:
        training: Keeps what was decoded, for its next phase.
        check: Called now and then while pictures are decoded or features computed; may raise to end it. Without one,
            nothing is kept: for a step or two that would not pay.

    Raises:
        UnreadableImage: A picture cannot be read.
    """
    _, phase = training.phases[training.place.phase]
    paths, targets = validate.part(training, "train")
    order = dataset.balanced(targets) if phase.train.sampler == "balanced" else None
    batches = dataset.Batches(
        len(targets), phase.train.batch_size, seed=training.recipe.seed, order=order, share=training.world.share
    )
    weights = losses.class_weights(phase.train, targets, len(training.model.classes)).to(training.compute.device)
    if check is not None and features.may_cache(training, phase):
        found = features.build(training, phase, check)
        augmenter = Augmenter(phase.augment, training.model.preprocessing)
        # Looking a row up takes no process.
        loader = dataset.loader(TrainingFeatures(found, targets, augmenter), batches, workers=0)
        learnt = partial(_losses_of_features, training, phase, weights)
        measured = partial(features.validate, training, found)
        return Feed(loader, batches, learnt, measured, found.story, is_light=True)
    pictures = _pictures(training, phase, paths, targets, check)
    loader = dataset.loader(pictures, batches, workers=training.workers)
    return Feed(loader, batches, partial(_losses, training, phase, weights), partial(validate.validate, training))


def _pictures(
    training: ClassifyTraining,
    phase: Phase,
    paths: Sequence[Path],
    targets: Sequence[int],
    check: Callable[[], None] | None,
) -> dataset.TrainingPictures:
    pictures = dataset.TrainingPictures(paths, targets, training.model.preprocessing, phase.augment)
    if check is not None:
        pictures.kept = state.kept(training, pictures.sight, check)
    return pictures


def _losses(
    training: ClassifyTraining, phase: Phase, class_weights: Tensor, batch: tuple[Tensor, Tensor]
) -> dict[str, Tensor]:
    """Of pictures [B, 1, S, S] uint8 and class indices [B]."""
    place, model = training.place, training.model
    images = training.compute.send(model.preprocessing.normalise(batch[0]))
    rng = randomness.generator(training.recipe.seed, "mix", place.epoch, place.batch)
    images, targets = augment.mix(images, _one_hot(training, batch[1]), phase.augment, rng)
    with training.compute.autocast():
        logits = model.network(images)
    return {phase.train.loss: losses.loss(logits, targets, class_weights, phase.train)}


def _losses_of_features(
    training: ClassifyTraining, phase: Phase, class_weights: Tensor, batch: tuple[Tensor, Tensor]
) -> dict[str, Tensor]:
    """Of features [B, D] and class indices [B]."""
    with training.compute.autocast():
        logits = training.model.network.answer(batch[0].to(training.compute.device))
    return {phase.train.loss: losses.loss(logits, _one_hot(training, batch[1]), class_weights, phase.train)}


def _one_hot(training: ClassifyTraining, targets: Tensor) -> Tensor:
    return functional.one_hot(targets, len(training.model.classes)).float().to(training.compute.device)
