"""Features of a frozen backbone: computed once, so that an epoch of the head alone costs a moment.

Only where every epoch would compute the same: see `may_cache`. What the head learns from them is what it would learn
from the pictures; dropout acts after them. Figures of a finished run do not come from here: see finish.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import torch
from torch import Tensor
from torch.utils.data import Dataset
from tqdm import tqdm

from fxcli import __version__
from fxcli.console import console
from fxcli.data.augment import Augmenter
from fxcli.data.cache import LIMIT_BYTES, contents
from fxcli.data.dataset import Draw, evenly, workers_of
from fxcli.errors import RunError
from fxcli.evaluation import metrics
from fxcli.inference.pipeline import ordered_map
from fxcli.model import freeze, hardware
from fxcli.model.hardware import Compute
from fxcli.recipe.schema import Augment, Phase
from fxcli.run.cache import cache_dir, key_of, storing
from fxcli.run.checkpoint import digest_of
from fxcli.training.state import ClassifyTraining
from fxcli.training.validate import part

# Part of what the features are, to the bit.
BATCH_SIZE = 32
# What is known of feature space gets no better with more.
STATISTICS_PICTURES = 2000

# Sent through an augmentation of flips alone, it tells by its first pixel which flips were drawn.
_MARKER = np.array([[0, 1], [2, 3]], dtype=np.uint8)
_LEFT_RIGHT, _UPSIDE_DOWN = 1, 2


@dataclass(frozen=True)
class Features:
    """What a phase of the head alone needs of its pictures.

    Attributes:
        train: [N, V, D] of each training picture in each of its variants, in the precision of training.
        variants: V numbers, each the sum of the flips in it.
        val: [M, D] float32 of the validation part; None without one.
        story: How they came about, for people.
    """

    train: Tensor
    variants: tuple[int, ...]
    val: Tensor | None
    story: str


class TrainingFeatures(Dataset[tuple[Tensor, int]]):
    """The features [D] that a draw asks for, in the variant that the augmentation would make, and the class index."""

    def __init__(self, features: Features, targets: Sequence[int], augmenter: Augmenter) -> None:
        self.features, self.targets, self.augmenter = features, list(targets), augmenter

    def __getitem__(self, draw: Draw) -> tuple[Tensor, int]:
        variants = self.features.variants
        variant = int(self.augmenter(_MARKER, draw.seed)[0, 0, 0]) if len(variants) > 1 else variants[0]
        return self.features.train[draw.index, variants.index(variant)], self.targets[draw.index]

    def __len__(self) -> int:
        return len(self.targets)


def variants_of(augment: Augment) -> tuple[int, ...]:
    """The flips that an augmentation may draw."""
    found = [0]
    for flip, probability in ((_LEFT_RIGHT, augment.hflip), (_UPSIDE_DOWN, augment.vflip)):
        found += [variant + flip for variant in found] if probability else []
    return tuple(found)


def passes(training: ClassifyTraining, phase: Phase) -> int:
    """How often a phase goes through its pictures: once for each variant where their features are kept."""
    return len(variants_of(phase.augment)) if may_cache(training, phase) else phase.train.epochs


def may_cache(training: ClassifyTraining, phase: Phase) -> bool:
    """Whether each epoch of a phase would compute the same features, and keeping them pays.

    So it is where the whole backbone is frozen, and pictures change by flips alone and are not mixed; it pays where the
    recipe allows it, they fit into memory, and there are no more variants than epochs.
    """
    spec, variants = training.model.spec, variants_of(phase.augment)
    is_frozen = freeze.is_frozen(spec, phase.model.freeze)
    is_plain = not any(value for name, value in phase.augment if name not in ("hflip", "vflip", "erase_scale"))
    size_bytes = 4 * len(part(training, "train")[0]) * len(variants) * spec.num_features
    return (
        training.recipe.data.cache != "none"
        # A step on features is over before another process has heard of it.
        and training.world.size == 1
        and is_frozen
        and is_plain
        and len(variants) <= phase.train.epochs
        and size_bytes <= LIMIT_BYTES
    )


def build(training: ClassifyTraining, phase: Phase, check: Callable[[], None]) -> Features:
    """The features of both parts, from the cache or computed.

    Args:
        training: With its backbone frozen.
        phase: One that `may_cache`.
        check: Called before each batch; may raise to end it.

    Raises:
        UnreadableImage: A picture cannot be read.
    """
    started = time.monotonic()
    compute, variants = training.compute, variants_of(phase.augment)
    validating = Compute(compute.device, "fp32", compute.channels_last)
    source = _Source(training, compute, variants, BATCH_SIZE, check)
    train, is_made = source.features(part(training, "train")[0])
    paths, val, is_val_made = part(training, "val")[0], None, False
    if paths:
        plain = _Source(training, validating, (0,), training.recipe.evaluate.batch_size, check)
        found, is_val_made = plain.features(paths)
        val = found[:, 0]
    how = "computed" if is_made or is_val_made else "found, and compared with a batch computed anew,"
    story = (
        f"the backbone is frozen: its features of {len(train)} training pictures"
        + (f" in {len(variants)} variants" if len(variants) > 1 else "")
        + f" were {how} in {time.monotonic() - started:.1f} s; data.cache=none turns this off"
    )
    return Features(train, variants, val, story)


def of_training_pictures(training: ClassifyTraining) -> Tensor:
    """[N, D] float32 of training pictures as prediction sees them: of all, or of some thousands, evenly spread."""
    compute = training.compute
    paths = evenly(part(training, "train")[0], STATISTICS_PICTURES)
    source = _Source(training, Compute(compute.device, "fp32", compute.channels_last), (0,), BATCH_SIZE, _nothing)
    # Where the backbone learns nothing, a run with another seed finds what this one computes.
    if all(may_cache(training, phase) for _, phase in training.phases):
        return source.features(paths)[0][:, 0]
    return torch.cat([*source._computed(paths)])[:, 0]


def _nothing() -> None:
    pass


def validate(training: ClassifyTraining, features: Features) -> dict[str, Any]:
    """Figures on the validation part, as `validate.validate` gives them; {} without one.

    Raises:
        RunError: A logit is not finite.
    """
    if features.val is None:
        return {}
    with torch.inference_mode():
        batches = torch.split(features.val.to(training.compute.device), training.recipe.evaluate.batch_size)
        logits = torch.cat([training.model.network.answer(batch) for batch in batches]).float().cpu().numpy()
    if not np.isfinite(logits).all():
        raise RunError("the model's answers are not finite", hint="the training diverged: lower optim.lr")
    return metrics.classification(logits, np.asarray(part(training, "val")[1]), training.model.classes)


@dataclass(frozen=True)
class _Source:
    """How features are computed: all that they are a function of, besides the pictures."""

    training: ClassifyTraining
    compute: Compute
    variants: tuple[int, ...]
    batch_size: int
    check: Callable[[], None]

    def features(self, paths: Sequence[Path]) -> tuple[Tensor, bool]:
        """[N, V, D] on the CPU, and whether they were computed."""
        file = cache_dir() / "features" / f"{key_of(self._key(paths))}.safetensors"
        first = next(self._computed(paths[: self.batch_size]))
        found = _load(file)
        # The key cannot see a backbone whose code was changed: a batch computed anew does.
        if found is not None and len(found) == len(paths) and torch.equal(found[: len(first)], first):
            return found, False
        made = torch.cat([first, *self._computed(paths[self.batch_size :])])
        _store(file, made)
        return made, True

    @torch.inference_mode()
    def _computed(self, paths: Sequence[Path]) -> Iterator[Tensor]:
        """[B, V, D] of each batch, in order."""
        model, workers = self.training.model, workers_of(self.training.workers)

        def fitted(path: Path) -> np.ndarray:
            return model.preprocessing.fit(model.preprocessing.load(path))

        waiting: list[np.ndarray] = []
        bar: tqdm[Any]
        with console.progress(total=len(paths), what="features") as bar:
            for number, picture in enumerate(ordered_map(fitted, paths, workers=workers, ahead=2 * self.batch_size), 1):
                waiting.append(picture)
                if len(waiting) == self.batch_size or number == len(paths):
                    self.check()
                    images = torch.from_numpy(np.stack(waiting))[:, None]
                    yield torch.stack([self._forward(images, variant) for variant in self.variants], dim=1)
                    bar.update(len(waiting))
                    waiting = []

    def _forward(self, images: Tensor, variant: int) -> Tensor:
        """[B, 1, S, S] uint8 → [B, D]."""
        model = self.training.model
        turned = images.flip([dim for dim, flip in ((-1, _LEFT_RIGHT), (-2, _UPSIDE_DOWN)) if variant & flip])
        batch = self.compute.send(model.preprocessing.normalise(turned))
        with self.compute.autocast():
            return model.network.pool(model.network.backbone(batch)).cpu()

    def _key(self, paths: Sequence[Path]) -> dict[str, Any]:
        model = self.training.model
        return {
            "versions": [__version__, torch.__version__, PIL.__version__],
            "plugin": model.info.get("plugin"),
            "backbone": [model.spec.name, self.training.recipe.model.model_dump(mode="json")],
            "weights": digest_of(model.network.backbone.state_dict()),
            "pictures": contents(paths),
            "preprocessing": model.preprocessing.to_mapping(),
            "computed": {**hardware.describe(self.compute), "cpu": torch.backends.cpu.get_cpu_capability()},
            "variants": self.variants,
            "batch_size": self.batch_size,
        }


def _load(file: Path) -> Tensor | None:
    """What `_store` wrote; None if it is absent or damaged."""
    from safetensors import SafetensorError, safe_open

    if not file.is_file():
        return None
    try:
        with safe_open(file, framework="pt") as opened:
            tensor: Tensor = opened.get_tensor("features")
            if (opened.metadata() or {}).get("sha256") == digest_of({"features": tensor}):
                return tensor
    except (SafetensorError, OSError, ValueError):
        pass
    console.warn(f"{file} is damaged; the features are computed anew")
    return None


def _store(file: Path, features: Tensor) -> None:
    from safetensors.torch import save_file

    try:
        with storing(file) as part:
            save_file({"features": features}, part, metadata={"sha256": digest_of({"features": features})})
    except Exception as error:
        # Of safetensors' own class where the disk is full. They are in memory: only the next run has to wait.
        console.warn(f"the features cannot be kept in {file.parent}: {error}")
