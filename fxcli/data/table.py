"""Tables that list pictures: read as text, cell by cell. What their columns mean, manifest and scan know."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Callable
from itertools import compress
from pathlib import Path

from fxcli.data import parquet
from fxcli.errors import DataError

# A manifest of a million pictures has about as much.
_SIZE_LIMIT_BYTES = 256 << 20
# Between cells, in tables that are no CSV.
_OTHER_MARKS = (";", "\t")


def read_table(path: Path, clean: Callable[[str], str] = str) -> tuple[list[str], list[tuple[str, dict[str, str]]]]:
    """Header, its names cleaned, and "file:line" and cells of each row, of a CSV with one header line, or of Parquet.

    Raises:
        DataError: It cannot be read, a column's name stands there twice, or a row has more or fewer cells.
        MissingDependency: It is Parquet, and pyarrow is not installed.
    """
    if path.suffix.lower() == parquet.SUFFIX:
        return parquet.read_table(path, clean)
    try:
        if path.stat().st_size > _SIZE_LIMIT_BYTES:
            raise DataError(f"larger than {_SIZE_LIMIT_BYTES >> 20} MiB: this is no list of pictures", where=path)
        with path.open(newline="", encoding="utf-8-sig") as handle:
            reader = csv.reader(handle, strict=True)
            header = [clean(name) for name in next(reader, [])]
            # Excel writes rows that once held something, too.
            rows = [(f"{path}:{reader.line_num}", cells) for cells in reader if any(cells)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        hint = "save it as UTF-8 (in Excel: CSV UTF-8)" if isinstance(error, UnicodeDecodeError) else None
        raise DataError(f"this CSV cannot be read: {error}", where=path, hint=hint) from error
    if len(header) == 1 and (mark := next((mark for mark in _OTHER_MARKS if mark in header[0]), "")):
        # As Excel writes it where a comma stands in decimal numbers.
        raise DataError(f"{mark!r} stands between its cells, where a comma must", where=path)
    for place, cells in rows:
        if len(cells) != len(header):
            raise DataError(f"this row has {len(cells)} cells, the header {len(header)}", where=place)
    # Excel writes columns that once held something, with neither a name nor a cell.
    wanted = [name != "" or any(cells[index] for _, cells in rows) for index, name in enumerate(header)]
    names = list(compress(header, wanted))
    doubled = [name for name, count in Counter(names).items() if count > 1]
    if doubled:
        raise DataError(f"two columns are called '{doubled[0]}'", where=path)
    return names, [(place, dict(zip(names, compress(cells, wanted), strict=True))) for place, cells in rows]
