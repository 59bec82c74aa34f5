"""What a detector found, missed and imagined: pictures with the true boxes and those that it tells. No model is run.

Its answers are those that `fx evaluate RUN --split val` wrote; the true boxes lie beside the prepared pictures.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fxcli.data import page
from fxcli.data.boxes import FILE, Boxes, read_boxes
from fxcli.data.manifest import Manifest
from fxcli.data.preprocess import Preprocessing
from fxcli.errors import DataError, UnreadableImage
from fxcli.evaluation import box_table, detection
from fxcli.evaluation.box_table import Found
from fxcli.evaluation.detection import Matches, match
from fxcli.evaluation.intervals import codes_of, one_of_each
from fxcli.explain import outline
from fxcli.report import figures
from fxcli.report.blocks import Block, Card, Figure, Pictures, Section, Table, Text, View
from fxcli.report.kept import Kept
from fxcli.run.files import sha256_of

# The most false boxes a picture that the FROC curve shows, and rows of its table.
_MOST_FALSE, _MOST_ROWS = 4.0, 20
# A fracture is small: one view is larger here than those of a class's evidence.
_SIDE_PX = 320


def located(run: Kept, manifest: Manifest, text: str, most: int) -> tuple[list[Block], list[Section]]:
    """What is to be known of all pictures, and so many of each kind, the surest first.

    Args:
        run: Of a detector.
        manifest: Its pictures.
        text: What was found on those of the validation part, as `found_csv` keeps it.
        most: Pictures of each kind.

    Raises:
        DataError: The boxes are not those of the training, or the header is no detector's.
        ValueError: The text is none of these.
    """
    seen = Preprocessing.from_mapping(run.header.get("preprocessing"))
    if sha256_of(manifest.root / FILE) != run.header.get("boxes_sha256"):
        raise DataError("the true boxes were changed since training")
    boxes, rows = read_boxes(manifest), {row.path: row for row in manifest.rows}
    said, least = box_table.read_found(text, boxes.classes), box_table.least_score(run.header)
    if strange := sum(each.path not in boxes.by_path for each in said):
        raise DataError(f"of {strange} pictures that were looked at no boxes are known")
    true = [boxes.by_path[each.path] for each in said]
    kinds = _kinds(said, true, len(boxes.classes), least)
    curve = _froc(match([each.boxes for each in said], true, len(boxes.classes)), least)

    def card(found: Found) -> Card:
        row, there = rows[found.path], boxes.by_path[found.path]
        size_px = (row.width_px, row.height_px)
        told = box_table.told(found.boxes, boxes.classes, size_px, least)["boxes"]
        lines = [*_lines(found, told, there, boxes.classes), row.source or row.path]
        try:
            pixels = page.small(outline.radiograph(seen.load(manifest.path_of(row))), _SIDE_PX)
        except UnreadableImage:
            return Card([], lines)  # the others are shown
        drawn = outline.outlined(pixels, told, size_px, there.corners)
        return Card([View(page.jpeg(drawn), "with boxes, true ones dashed")], lines)

    counts = ", ".join(f"{len(places)} {name.lower()}" for name, places in kinds.items())
    about = Text(
        f"{len(said)} pictures of the validation part: {counts}; on the rest, rightly, nothing. Boxes of a score of "
        f"{least:.3f} or more are told. Found: each true box is overlapped by one of them (intersection over union of "
        "half or more), and no other is told; missed: not each. One of each group, the surest first; of the missed, "
        "where it is the surest that there is nothing."
    )
    codes, _ = codes_of([each.group for each in said], len(said))
    parts = []
    for name, places in kinds.items():
        cards = [card(said[place]) for place in one_of_each(places, codes)[:most]]
        parts.append(Section(name, [Pictures(cards) if cards else Text("None.")]))
    return [about, *curve], parts


def _froc(matches: Matches, least: float) -> list[Block]:
    """The FROC curve up to _MOST_FALSE false boxes a picture; nothing without a box, a true one or one that is told."""
    if not (len(matches.score) and matches.truths.sum()):
        return []
    rates, sensitivity, scores = detection.froc(matches)
    shown = max(1, int(np.searchsorted(rates, _MOST_FALSE, side="right")))
    rates, sensitivity, scores = (each[:shown] for each in (rates, sensitivity, scores))
    places = np.unique(np.linspace(0, shown - 1, min(shown, _MOST_ROWS)).round().astype(int))
    rows = [[f"{rates[at]:.2f}", f"{100 * sensitivity[at]:.1f} %", f"{scores[at]:.3f}"] for at in places]
    told = int(np.searchsorted(-scores, -least, side="right"))
    breaks = {float(rates[told - 1]): "told"} if 0 < told < shown else {}
    alt = (
        f"FROC curve: sensitivity {sensitivity[0]:.3f} at {rates[0]:.2f} false boxes a picture, "
        f"{sensitivity[-1]:.3f} at {rates[-1]:.2f}"
    )
    line = figures.Line("sensitivity", rates.tolist(), sensitivity.tolist())
    x, y = "false boxes a picture", "true boxes that are found"
    svg = figures.curves([line], alt=alt, x=x, y=y, is_share=True, breaks=breaks)
    caption = f"FROC: boxes of a score of {least:.3f} or more are told, up to the dotted line"
    return [Figure(svg, caption, Table([x, y, "score"], rows))]


def _kinds(said: Sequence[Found], true: Sequence[Boxes], n_classes: int, least: float) -> dict[str, np.ndarray]:
    """Places of the pictures of each kind, in the order in which they are shown."""
    matches = match([each.boxes.above(least) for each in said], true, n_classes)
    is_hit, there = matches.hits[:, 0], matches.truths.sum(axis=1)
    is_missed = np.bincount(matches.picture[is_hit], minlength=len(said)) < there
    # The score of the surest box that is none; less than any without one.
    imagined = np.full(len(said), -1.0)
    np.maximum.at(imagined, matches.picture[~is_hit], matches.score[~is_hit])
    highest = np.array([each.boxes.highest for each in said])

    def of(is_one: np.ndarray, sureness: np.ndarray) -> np.ndarray:
        order = np.argsort(-sureness, kind="stable")
        return np.asarray(order[is_one[order]])

    return {
        "Found": of(~is_missed & (imagined < 0) & (there > 0), highest),
        "Missed": of(is_missed, -highest),
        "Told where nothing is": of(~is_missed & (imagined >= 0), imagined),
    }


def _lines(found: Found, told: Sequence[dict[str, object]], there: Boxes, classes: Sequence[str]) -> list[str]:
    """What is told of a picture, and what is there."""
    names = [f"{box['class']} {box['score']:.2f}" for box in told] or [
        f"none; the surest has {found.boxes.highest:.2f}"
    ]
    counts = np.bincount(there.labels, minlength=len(classes))
    true = [f"{count} {name}" for name, count in zip(classes, counts, strict=True) if count] or ["nothing"]
    return [f"told: {', '.join(names)}", f"is there: {', '.join(true)}"]
