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

    def add_up(self, module: nn.Module, value: float) -> float:
        """Adds the gradients of all processes up, in place; and a number of each."""
        if self.size == 1:
            return value
        learning = [parameter for parameter in module.parameters() if parameter.requires_grad]
        # What took no part in this process's loss may have in another's.
        gradients = [torch.zeros_like(each) if each.grad is None else each.grad for each in learning]
        flat = torch.cat([each.reshape(-1).float() for each in gradients])
        distributed.all_reduce(flat)
        sizes = [parameter.numel() for parameter in learning]
        for parameter, summed in zip(learning, torch.split(flat, sizes), strict=True):
            # It must lie in memory as the parameter does: a fused step takes that for granted.
            parameter.grad = torch.empty_like(parameter).copy_(summed.view_as(parameter)).detach()
        told = torch.tensor([value], dtype=torch.float64)
        distributed.all_reduce(told)
        return float(told)

    def any(self, *flags: bool) -> tuple[bool, ...]:
        """For each flag, whether it is true in any process."""
        if self.size == 1:
            return flags
        told = torch.tensor(flags, dtype=torch.int32)
        distributed.all_reduce(told, distributed.ReduceOp.MAX)
        return tuple(bool(each) for each in told)

    def heard(self, value: T) -> T:
        """What the first process says, in all of them."""
        if self.size == 1:
            return value
        box: list[Any] = [value]
        distributed.broadcast_object_list(box, src=0)
        return box[0]  # type: ignore[no-any-return]


ALONE = World()


@contextlib.contextmanager
def joined(environment: Mapping[str, str] = os.environ) -> Iterator[World]:
    """The processes that torchrun started together with this one; this one alone where it did not."""
    size = int(environment.get("WORLD_SIZE", "1"))
    if size == 1:
        yield ALONE
        return
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    distributed.init_process_group(backend, timeout=_PATIENCE)
    try:
        yield World(distributed.get_rank(), size)
    finally:
        distributed.destroy_process_group()
