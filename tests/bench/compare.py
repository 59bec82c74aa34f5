"""From timed sides to lines of the table."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from bench import paired
from bench.material import Folder
from bench.report import Aim, Part, Row
from bench.side import Side


@dataclass(frozen=True)
class Wanted:
    """A line: a side against the fastest of its peers.

    Attributes:
        side: Its name.
        peers: Their names.
        aim: Or None.
    """

    side: str
    peers: tuple[str, ...]
    aim: Aim | None = None


def seconds_per_picture(
    side: Side, few: Folder, many: Folder, outputs: Path, **settings: object
) -> Callable[[], float]:
    """What a round does with a side that turns folders into tables.

    Every side is run over a few pictures and over many, and the difference is divided by the difference of their
    numbers: loading a model, starting processes and the like are gone on both sides alike.

    Args:
        side: Takes `folder` and `out`.
        few: Short folder.
        many: Long one.
        outputs: Gets a folder for each run.
        settings: Passed on.
    """
    number = 0

    def timed(folder: Folder) -> float:
        nonlocal number
        number += 1
        out = outputs / f"{number:03d}"
        out.mkdir(parents=True)
        return float(side.run(folder=folder.path, out=str(out), **settings)["seconds"])

    def one_round() -> float:
        return (timed(many) - timed(few)) / (many.count - few.count)

    timed(few)
    return one_round


def seconds_alone(side: Side) -> Callable[[], float]:
    """What a round does with a side that needs no files; the first run, which chooses kernels, is not counted."""

    def one_round() -> float:
        values = side.run()
        return float(values["seconds"] / values["images"])

    one_round()
    return one_round


def add_rows(
    part: Part, what: str, times: Mapping[str, Sequence[float]], wanted: Sequence[Wanted], notes: Mapping[str, str]
) -> None:
    """Adds a line for each wanted comparison.

    Args:
        part: Gets the lines and the raw figures.
        what: First column.
        times: Seconds per picture of each side that ran, by round.
        wanted: The comparisons.
        notes: Why a side did not run.
    """
    part.raw |= {f"{what}: {name}, s/picture": list(values) for name, values in times.items()}
    for line in wanted:
        peers = [name for name in line.peers if name in times]
        peer = paired.fastest(times, peers) if peers else " / ".join(line.peers)
        peer_value = 1 / median(times[peer]) if peers else None
        if line.side not in times or not peers:
            absent = notes.get(line.side) or "; ".join(notes.get(name, "") for name in line.peers)
            part.rows.append(Row(what, line.side, peer, peer_value=peer_value, aim=line.aim, note=absent))
            continue
        part.rows.append(
            Row(
                what,
                line.side,
                peer,
                value=1 / median(times[line.side]),
                peer_value=peer_value,
                ratio=paired.ratio(times[peer], times[line.side]),
                aim=line.aim,
                note=f"the faster of {' and '.join(peers)}" if len(peers) > 1 else "",
            )
        )
