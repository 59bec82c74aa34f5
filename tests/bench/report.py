"""The table, and recipes/results/bench.json."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from bench.paired import CONFIDENCE, Interval

ENOUGH = 7


@dataclass(frozen=True)
class Aim:
    """What a ratio is to reach; the end of its interval that is further from the aim decides.

    Attributes:
        value: The aim.
        at_most: Whether the ratio must stay below it.
    """

    value: float
    at_most: bool = False

    def __str__(self) -> str:
        return f"{'<=' if self.at_most else '>='} {self.value:g}"

    def is_reached(self, ratio: Interval) -> bool:
        """Whether the whole interval fulfils it."""
        return ratio.high <= self.value if self.at_most else ratio.low >= self.value


@dataclass(frozen=True)
class Row:
    """A line of the table.

    Attributes:
        what: What is compared.
        side: fx, in which way; or a way of computing.
        peer: What it is compared with; "" for a line that stands alone.
        value: The side's figure, in `unit`.
        peer_value: The peer's.
        unit: Of both.
        ratio: Larger is better where `aim` is no upper bound.
        aim: Or None for a line that informs.
        note: Why there is no figure, or how it was won.
    """

    what: str
    side: str
    peer: str = ""
    value: float | None = None
    peer_value: float | None = None
    unit: str = "pictures/s"
    ratio: Interval | None = None
    aim: Aim | None = None
    note: str = ""

    @property
    def reached(self) -> bool | None:
        """Whether the aim is reached; None without an aim or a figure."""
        return self.aim.is_reached(self.ratio) if self.aim and self.ratio else None

    def record(self) -> dict[str, Any]:
        """Plain values."""
        return {**asdict(self), "reached": self.reached}


@dataclass
class Part:
    """The lines of one part of the benchmark.

    Attributes:
        name: "predict", "train" …
        method: What is timed, in a sentence or two.
        run: When this run of the benchmark began, in UTC.
        load: Load average then.
        repeats: Rounds.
        rows: Filled by the part.
        raw: Figures of every round, by side.
    """

    name: str
    method: str
    run: str
    load: float | None
    repeats: int
    rows: list[Row] = field(default_factory=list)
    raw: dict[str, list[float]] = field(default_factory=dict)

    def record(self) -> dict[str, Any]:
        """Plain values."""
        raw = {name: [float(f"{value:.4g}") for value in values] for name, values in self.raw.items()}
        return {**asdict(self), "rows": [row.record() for row in self.rows], "raw": raw}


def table(parts: Sequence[Part]) -> str:
    """All parts as text."""
    header = ["", "this", "against", "figures", f"ratio [{CONFIDENCE:.0%}]", "aim", "reached"]
    lines = [header]
    notes: list[str] = []
    for part in parts:
        notes.append(f"{part.name} ({part.repeats} repeats): {part.method}")
        for row in part.rows:
            lines.append(_cells(row))
            if row.note:
                notes.append(f"  {row.what}, {row.side}: {row.note}")
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    shown = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    return "\n".join([*shown, "", *notes])


def _cells(row: Row) -> list[str]:
    figures = " | ".join(_short(value) for value in ([row.value, row.peer_value] if row.peer else [row.value]))
    ratio = f"{row.ratio.median:.3g} [{row.ratio.low:.3g}, {row.ratio.high:.3g}]" if row.ratio else ""
    reached = {True: "yes", False: "no", None: ""}[row.reached]
    return [
        row.what,
        row.side,
        row.peer,
        f"{figures} {row.unit}",
        ratio,
        str(row.aim or ""),
        reached,
    ]


def _short(value: float | None) -> str:
    """Three digits, without an exponent for large numbers."""
    return "-" if value is None else f"{value:.3g}" if value < 1000 else f"{value:.0f}"


def store(file: Path, machine: dict[str, Any], parts: Sequence[Part]) -> bool:
    """Puts the parts into the results; parts of an earlier run on the same machine stay, under that run's time.

    Returns:
        Whether it was written: parts with fewer than ENOUGH repeats are for trying out, and are not.
    """
    kept = [part for part in parts if part.repeats >= ENOUGH]
    if not kept:
        return False
    earlier = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    before = earlier["parts"] if earlier.get("machine") == machine else {}
    record = {"machine": machine, "parts": before | {part.name: part.record() for part in kept}}
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return True
