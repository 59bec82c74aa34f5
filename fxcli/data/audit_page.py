"""audit.html: what an audit found, pictures side by side, for people to judge. One file; it loads nothing.

Called by data/prepare.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from fxcli.data import page
from fxcli.data.audit import SAME_PICTURE, Audit, Pair
from fxcli.data.manifest import LEARNT
from fxcli.data.page import MOST_SHOWN, Entry, Part, Picture
from fxcli.data.views import View

_REST = "audit.json has all."


def write(file: Path, name: str, found: Audit, views: Sequence[View]) -> None:
    """Writes the page.

    Args:
        file: To write.
        name: Of the recipe.
        found: What to show.
        views: Of the pictures; none: names alone are shown.
    """
    page.write(file, f"Audit of {name}", found.table(), _sections(found, views))


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
        yield Part(title, about, len(pairs), shown, _REST)
    odd = [
        Entry(f"{oddity.kind} {oddity.value:.2f}", [_picture(oddity.index, found, views)])
        for oddity in found.oddities[:MOST_SHOWN]
    ]
    yield Part("Unusual pictures", "Hints, not verdicts: nothing follows from them.", len(found.oddities), odd, _REST)


def _by_score(pair: Pair) -> tuple[float, int, int]:
    # The doubtful ones first: they are what a page is looked at for.
    return pair.score, pair.a, pair.b


def _pair(pair: Pair, found: Audit, views: Sequence[View]) -> Entry:
    what = f"score {pair.score:.3f}" if pair.kind == SAME_PICTURE else "same figure"
    differ = pair.kind == SAME_PICTURE and found.labels[pair.a] != found.labels[pair.b]
    return Entry(what, [_picture(index, found, views) for index in (pair.a, pair.b)], differ)


def _picture(index: int, found: Audit, views: Sequence[View]) -> Picture:
    data = page.jpeg(views[index].pixels) if views else ""
    split = found.splits[index] + (", left out" if index in found.dropped else "")
    return Picture(found.names[index], found.labels[index], split, data)
