"""One training in several processes, as torchrun starts them: who does what, and what they add up.

Each process takes its share of every batch, and the gradients of all are added before a step: the weights are the same
everywhere. The first process alone writes, evaluates and decides; the others hear of it. Called by commands/train, job
and loop; alone, all of this does nothing.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import distributed, nn

from fxcli.console import console
from fxcli.data import dataset
from fxcli.errors import RunError, UsageError
from fxcli.model import freeze
from fxcli.recipe.detection import DetectPhase
from fxcli.recipe.schema import ClassifyRecipe, Phase, PretrainRecipe
from fxcli.recipe.tasks import TrainRecipe
from fxcli.run.launch import processes
from fxcli.zoo.plugins import load_zoo

T = TypeVar("T")

# The others wait while the first one evaluates, for hours maybe.
_PATIENCE = timedelta(days=7)


@dataclass(frozen=True)
class World:
    """The processes of a training.

    Attributes:
        rank: Of this one.
        size: How many there are.
    """

    rank: int = 0
    size: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this is the one that writes."""
        return self.rank == 0

    @property
    def apart(self) -> tuple[int, ...]:
        """What tells random draws in this process from those in the others; () in the first, as it is alone."""
        return () if self.is_first else (self.rank,)

    def share(self, batch: Sequence[T]) -> list[T]:
        """What of a batch is this process's; of one with too few, its first, which then counts for nothing."""
        return list(batch[self.rank :: self.size] or batch[:1])

    def part(self, count: int) -> int:
        """How many of a batch of so many are this process's."""
        return len(range(self.rank, count, self.size))

    def add_up(self, module: nn.Module, values: Mapping[str, float]) -> dict[str, float]:
        """Adds the gradients of all processes up, in place; and numbers that each has by the same names."""
        if self.size == 1:
            return dict(values)
        learning = [parameter for parameter in module.parameters() if parameter.requires_grad]
        # What took no part in this process's loss may have in another's.
        gradients = [torch.zeros_like(each) if each.grad is None else each.grad for each in learning]
        flat = torch.cat([each.reshape(-1).float() for each in gradients])
        with _together():
            distributed.all_reduce(flat)
        sizes = [parameter.numel() for parameter in learning]
        for parameter, summed in zip(learning, torch.split(flat, sizes), strict=True):
            # It must lie in memory as the parameter does: a fused step takes that for granted.
            parameter.grad = torch.empty_like(parameter).copy_(summed.view_as(parameter)).detach()
        told = torch.tensor(tuple(values.values()), dtype=torch.float64)
        with _together():
            distributed.all_reduce(told)
        return dict(zip(values, told.tolist(), strict=True))

    @torch.no_grad()
    def spread(self, module: nn.Module) -> None:
        """Gives all processes the buffers of the first: each made its own statistics, and the first's are saved."""
        if self.size == 1:
            return
        with _together():
            for buffer in module.buffers():
                distributed.broadcast(buffer, src=0)

    def any(self, *flags: bool) -> tuple[bool, ...]:
        """For each flag, whether it is true in any process."""
        if self.size == 1:
            return flags
        told = torch.tensor(flags, dtype=torch.int32)
        with _together():
            distributed.all_reduce(told, distributed.ReduceOp.MAX)
        return tuple(bool(each) for each in told)

    def heard(self, value: T) -> T:
        """What the first process says, in all of them."""
        if self.size == 1:
            return value
        box: list[Any] = [value]
        with _together():
            distributed.broadcast_object_list(box, src=0)
        return box[0]  # type: ignore[no-any-return]


ALONE = World()


@contextlib.contextmanager
def _together() -> Iterator[None]:
    """What all processes do at once; where one has ended, torch says so in words of its own."""
    try:
        yield
    except RuntimeError as error:
        if dataset.is_lost_worker(error):
            raise  # one of this process's own
        what = f"another process of this training has ended, and says why: {str(error).partition(chr(10))[0][:200]}"
        raise RunError(
            what, hint="what was saved before is whole: start as many processes with --resume RUN"
        ) from error


@contextlib.contextmanager
def joined() -> Iterator[World]:
    """The processes that torchrun started together with this one; this one alone where it did not."""
    size = processes()
    if size == 1:
        yield ALONE
        return
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    distributed.init_process_group(backend, timeout=_PATIENCE)
    try:
        yield World(distributed.get_rank(), size)
    finally:
        distributed.destroy_process_group()


def check(recipe: TrainRecipe, world: World) -> None:
    """Whether several processes can make this training, and what will differ from one process.

    Raises:
        UsageError: They cannot.
    """
    if world.size == 1:
        return
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if gpus and recipe.hardware.device != "cpu":
        here = int(os.environ.get("LOCAL_WORLD_SIZE") or world.size)
        if recipe.hardware.device not in ("auto", "cuda"):
            raise UsageError(f"hardware.device is {recipe.hardware.device}: each process takes a GPU of its own (cuda)")
        if here > gpus:
            raise UsageError(f"{here} processes for {gpus} GPUs: each needs one of its own")
    if isinstance(recipe, PretrainRecipe):
        raise UsageError("task: pretrain trains in one process: a picture is compared with those of its whole batch")
    if isinstance(recipe, ClassifyRecipe) and (recipe.ensemble.folds > 1 or recipe.ensemble.seeds > 1):
        hint = "start several one after the other, with --set seed=1 and so on"
        raise UsageError("several processes make one training, not folds or seeds", hint=hint)
    if any(phase.train.batch_size < world.size for phase in recipe.phases.values()):
        raise UsageError(f"a batch is shared by {world.size} processes: train.batch_size is smaller")
    differs = []
    spec = load_zoo().backbone(recipe.model.backbone)
    learning = [phase.model for phase in recipe.phases.values() if not freeze.is_frozen(spec, phase.model.freeze)]
    if any(way.bn == "train" for way in learning):
        differs.append("BatchNorm takes its statistics from each process's share of a batch (model.bn=eval would not)")
    for phase in recipe.phases.values():
        if (isinstance(phase, Phase) and phase.model.dropout) or recipe.model.drop_path:
            differs.append("dropout draws anew in each process")
        if isinstance(phase, Phase) and (phase.augment.mixup or phase.augment.cutmix):
            differs.append("pictures are mixed within each process's share")
        if isinstance(phase, Phase) and phase.train.class_weights != "none":
            differs.append("class weights are averaged within each process's share")
        if isinstance(phase, DetectPhase):
            differs.append("a detector draws and counts candidates within each process's share")
    for line in dict.fromkeys(differs):
        console.warn(f"not the same as in one process: {line}")
