"""Progress for a log: lines, one every few minutes, where a bar that is drawn over itself would be of no use."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

if TYPE_CHECKING:
    Bar = tqdm[Any]
else:
    Bar = tqdm

EVERY_S = 300.0


class Lines(Bar):
    """A tqdm that writes a line every `EVERY_S` seconds, and nothing if it ends before the first is due."""

    # Nothing is drawn in between: no thread need look after it.
    monitor_interval = 0

    def __init__(self, items: Iterable[Any], **options: Any) -> None:
        """Args as tqdm's."""
        shape = "{desc}: {n_fmt} of {total_fmt} ({unit}), {elapsed} so far, {remaining} left"
        super().__init__(items, mininterval=EVERY_S, delay=EVERY_S, miniters=1, bar_format=shape, **options)

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        """Writes a line; where tqdm would clear a drawn one, nothing."""
        if msg is None:
            self.fp.write(f"{self}\n")
            self.fp.flush()
