"""audit.html: what an audit found, pictures side by side, for people to judge. One file; it loads nothing.

Called by data/prepare.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from PIL import Image

from fxcli.data.audit import LEARNT, SAME_PICTURE, Audit, Pair
from fxcli.data.views import View
from fxcli.run.files import write_text

# Of each section; a page of all pairs of a large set would not open.
MOST_SHOWN = 400
_QUALITY = 70


@dataclass(frozen=True)
class Picture:
    """One picture of an entry; `data` is base64, or "" without a view."""

    name: str
    label: str
    split: str
    data: str


@dataclass(frozen=True)
class Entry:
    """One or two pictures with a line; `differ` marks labels that disagree."""

    what: str
    pictures: list[Picture]
    differ: bool = False


@dataclass(frozen=True)
class Part:
    """A section of the page."""

    title: str
    about: str
    count: int
    shown: list[Entry]


def write(file: Path, name: str, found: Audit, views: Sequence[View]) -> None:
    """Writes the page.

    Args:
        file: To write.
        name: Of the recipe.
        found: What to show.
        views: Of the pictures; none: names alone are shown.
    """
    import jinja2

    source = resources.files("fxcli.data").joinpath("audit_page.html.j2").read_text(encoding="utf-8")
    template = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined).from_string(source)
    sections = [part for part in _sections(found, views) if part.count]
    write_text(file, template.render(name=name, table=found.table(), sections=sections) + "\n")


def _sections(found: Audit, views: Sequence[View]) -> Iterable[Part]:
    leaks, conflicts, copies, together = [], [], [], []
    for pair in found.pairs:
        parts = {found.splits[pair.a], found.splits[pair.b]}
        if pair.kind != SAME_PICTURE:
            together.append(pair)
        elif "test" in parts and parts & set(LEARNT):
            leaks.append(pair)
        elif found.labels[pair.a] != found.labels[pair.b]:
            conflicts.append(pair)
        else:
            copies.append(pair)
    for title, about, pairs in (
        ("Test pictures that are learnt from", "The same picture in test and in train or val.", leaks),
        ("Other copies with different labels", "One of the two labels is wrong, or the classes overlap.", conflicts),
        ("Other copies", "The same picture twice, with one label.", copies),
        ("Panels of one figure", "Different pictures of one figure, as names or layouts tell.", together),
    ):
        shown = [_pair(pair, found, views) for pair in sorted(pairs, key=_by_score)[:MOST_SHOWN]]
        yield Part(title, about, len(pairs), shown)
    odd = [
        Entry(f"{oddity.kind} {oddity.value:.2f}", [_picture(oddity.index, found, views)])
        for oddity in found.oddities[:MOST_SHOWN]
    ]
    yield Part("Unusual pictures", "Hints, not verdicts: nothing follows from them.", len(found.oddities), odd)


def _by_score(pair: Pair) -> tuple[float, int, int]:
    # The doubtful ones first: they are what a page is looked at for.
    return pair.score, pair.a, pair.b


def _pair(pair: Pair, found: Audit, views: Sequence[View]) -> Entry:
    what = f"score {pair.score:.3f}" if pair.kind == SAME_PICTURE else "same figure"
    differ = pair.kind == SAME_PICTURE and found.labels[pair.a] != found.labels[pair.b]
    return Entry(what, [_picture(index, found, views) for index in (pair.a, pair.b)], differ)


def _picture(index: int, found: Audit, views: Sequence[View]) -> Picture:
    data = _jpeg(views[index]) if views else ""
    split = found.splits[index] + (", left out" if index in found.dropped else "")
    return Picture(found.names[index], found.labels[index], split, data)


def _jpeg(view: View) -> str:
    out = io.BytesIO()
    Image.fromarray(view.pixels).save(out, format="JPEG", quality=_QUALITY)
    return base64.b64encode(out.getvalue()).decode("ascii")
