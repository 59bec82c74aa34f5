"""Runs → sections → one HTML file. Called by `fx report`.

The file loads nothing and runs nothing: figures are SVG, pictures are data, and all text is escaped.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from fxcli import __version__
from fxcli.console import DEMO, INTENDED_USE
from fxcli.data.page import render
from fxcli.report import told
from fxcli.report.blocks import Block, Missing, Section, Table, Text
from fxcli.report.compared import compared
from fxcli.report.kept import Kept
from fxcli.report.measured import headline, measured
from fxcli.report.pictures import pictures
from fxcli.run.provenance import now
from fxcli.zoo.plugins import load_zoo

# In the head of every report, by which one is known again.
MARK = "fx report"
_HEAD_BYTES = 2000


@dataclass(frozen=True)
class Report:
    """A report.

    Attributes:
        text: The file.
        missing: Commands that would make what it lacks.
    """

    text: str
    missing: list[str]


def build(runs: Sequence[Kept], most_pictures: int) -> Report:
    """Makes a report.

    Args:
        runs: At least one; several are compared, too.
        most_pictures: Right and wrong ones of each run; 0: none, and no model is run.
    """
    doubled = Counter(run.name for run in runs)
    named = {run.name if doubled[run.name] == 1 else str(run.run.path): run for run in runs}
    chapters = {name: list(_sections(run, most_pictures)) for name, run in named.items()}
    if len(named) == 1:
        ((name, sections),) = chapters.items()
        title = f"Run {name}"
    else:
        title = f"Runs {', '.join(named)}"
        sections = [compared(named), *(Section(name, parts=parts) for name, parts in chapters.items())]
    notices = [DEMO] if any(run.info.get("demo") for run in runs) else []
    text = render(
        "report/report.html.j2",
        title=title,
        mark=MARK,
        notice=" ".join([*notices, INTENDED_USE]),
        made=f"fx {__version__}, {now()}",
        sections=sections,
    )
    blocks = [block for section in sections for block in _blocks(section)]
    commands = [block.command for block in blocks if isinstance(block, Missing) and block.command]
    return Report(text, list(dict.fromkeys(commands)))


def _blocks(section: Section) -> Iterator[Block]:
    yield from section.blocks
    for part in section.parts:
        yield from _blocks(part)


def is_report(file: Path) -> bool:
    """Whether a file is one that `build` made."""
    with file.open("rb") as handle:
        return f'<meta name="generator" content="{MARK}">'.encode() in handle.read(_HEAD_BYTES)


def _sections(run: Kept, most_pictures: int) -> Iterator[Section]:
    yield told.what_was_run(run)
    yield told.data(run)
    yield told.learning(run)
    yield measured(run)
    if most_pictures and run.task != "pretrain":
        yield pictures(run, most_pictures)
    yield from _of_plugins(run)
    yield told.card(run, headline(run))


def _of_plugins(run: Kept) -> Iterator[Section]:
    """What plugins add, as plain text and tables."""
    for plugin, title, content in load_zoo().report_sections(run.run.path):
        block = Text(content) if isinstance(content, str) else Table(content[0], content[1:])
        yield Section(f"{title} ({plugin})", [block])
