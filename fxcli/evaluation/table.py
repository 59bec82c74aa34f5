"""Lines and columns of every output. Text in, text out. Names as text: data/names."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

from fxcli.data.parquet import Kind

# As data/parquet takes rows: of more than some 1,300 boxes a cell is longer than the csv module reads unasked, and
# --resume would take that row for one that is cut short, with all after it.
csv.field_size_limit(8 << 20)

# Of columns of predictions, by name, and by what it begins with; class names end those.
_KINDS = {
    "distance": Kind.NUMBER,
    "width_px": Kind.COUNT,
    "height_px": Kind.COUNT,
    "n_boxes": Kind.COUNT,
    "box_score": Kind.NUMBER,
    "boxes": Kind.BOXES,
    "set": Kind.TEXTS,
    "unlike_training": Kind.TRUTH,
    "assumes_fracture": Kind.TRUTH,
}
_BEGINNINGS = {"p_": Kind.NUMBER, "logit_": Kind.SINGLE}


def kind_of(column: str) -> Kind:
    """What the cells of a column of predictions are."""
    begun = (kind for start, kind in _BEGINNINGS.items() if column.startswith(start))
    return _KINDS.get(column) or next(begun, Kind.TEXT)


def csv_line(cells: Sequence[object]) -> str:
    """One line of a CSV, without its end."""
    text = io.StringIO()
    # Without an end of its own, the csv module takes neither character for one, and would leave it unquoted.
    is_broken = any(sign in str(cell) for cell in cells for sign in "\r\n")
    csv.writer(text, lineterminator="", quoting=csv.QUOTE_ALL if is_broken else csv.QUOTE_MINIMAL).writerow(cells)
    return text.getvalue()
