"""Tables as Parquet (extra `parquet`): CSVs of fx in typed columns, and lists of others as text. Only here is pyarrow.

Cells hold what the CSV holds, names of files included (see names); an empty cell is null. Called wherever fx writes a
table for people, and where it takes one.
"""

from __future__ import annotations

import contextlib
import csv
import json
from collections.abc import Callable, Iterator, Mapping
from enum import StrEnum
from pathlib import Path
from types import MappingProxyType
from typing import Any, BinaryIO

from fxcli.data.names import path_of
from fxcli.errors import DataError, MissingDependency
from fxcli.run.files import replacing, saying

SUFFIX = ".parquet"

# A longer row of a CSV could not be parsed; of a row the boxes alone can be long.
_BLOCK_BYTES = 8 << 20
# As manifest has it for a CSV, of the text of all cells; and of a list of paths, of which each has a limit of its own.
_LIST_LIMIT_BYTES, _LIST_LIMIT_ROWS = 256 << 20, 10_000_000
_PATH_LIMIT_BYTES, _PATHS_LIMIT_ROWS = 64 << 10, 100_000_000
# Rows that are unpacked at once.
_BATCH_ROWS = 4096


class Kind(StrEnum):
    """What the cells of a column are; SINGLE is float32, TEXTS a list that a CSV joins by |, BOXES JSON in a CSV."""

    TEXT = "text"
    NUMBER = "number"
    SINGLE = "single"
    COUNT = "count"
    TRUTH = "truth"
    TEXTS = "texts"
    BOXES = "boxes"


# (name of a column) → what its cells are.
KindOf = Callable[[str], Kind]


def require() -> None:
    """Whether Parquet can be written and read, before there is anything to lose.

    Raises:
        MissingDependency: It cannot.
    """
    try:
        import pyarrow.csv
        import pyarrow.parquet  # noqa: F401
    except ImportError as error:
        raise MissingDependency("pyarrow", extra="parquet", purpose="Parquet") from error


def table_of(file: Path) -> Path:
    """Where the same table as a CSV lies as Parquet."""
    return file.with_suffix(SUFFIX)


def beside(file: Path, kind_of: KindOf) -> None:
    """Writes what a CSV of fx holds as Parquet beside it.

    Raises:
        MissingDependency: pyarrow is not installed.
        DataError: It cannot be written.
    """
    with file.open(encoding="utf-8", newline="") as handle:
        columns = {name: kind_of(name) for name in next(csv.reader(handle))}
    write(file, table_of(file), columns)


def forget(file: Path) -> None:
    """Takes away what lies beside a CSV and holds earlier rows; not a folder, which is another command's."""
    if table_of(file).is_file():
        table_of(file).unlink()


def write(
    source: Path | BinaryIO,
    target: Path,
    columns: Mapping[str, Kind],
    about: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Writes a CSV of fx as Parquet, atomically; memory holds a few MiB of it.

    Args:
        source: The CSV, with a header.
        target: Replaced.
        columns: All of its columns, in order.
        about: Kept in the file, see `about_of`.

    Raises:
        MissingDependency: pyarrow is not installed.
        DataError: It cannot be written.
    """
    require()
    import pyarrow as pa
    import pyarrow.csv as arrow_csv
    import pyarrow.parquet as pq

    read, kept = _types(pa, columns, as_read=True), _types(pa, columns, as_read=False)
    schema = pa.schema(kept, metadata=dict(about) or None)
    options = {
        "read_options": arrow_csv.ReadOptions(block_size=_BLOCK_BYTES, use_threads=False),
        "parse_options": arrow_csv.ParseOptions(newlines_in_values=True),
        "convert_options": arrow_csv.ConvertOptions(
            column_types=read,
            null_values=[""],
            strings_can_be_null=True,
            true_values=["true"],
            false_values=["false"],
        ),
    }
    try:
        with (
            saying(target),
            arrow_csv.open_csv(source, **options) as rows,
            replacing(target) as part,
            pq.ParquetWriter(part, schema, compression="zstd") as writer,
        ):
            for batch in rows:
                cells = [_unpacked(pa, column, kept[name]) for name, column in zip(columns, batch.columns, strict=True)]
                writer.write_batch(pa.record_batch(cells, schema=schema))
    except pa.ArrowException as error:
        raise DataError(f"cannot be written as Parquet: {_first_line(error)}", where=target) from error


def _types(pa: Any, columns: Mapping[str, Kind], *, as_read: bool) -> dict[str, Any]:
    """The type of each column, in the file or as it comes out of the CSV."""
    box = {"class": pa.string(), **{name: pa.float64() for name in ("score", "left", "top", "right", "bottom")}}
    kinds = {
        Kind.TEXT: pa.string(),
        Kind.NUMBER: pa.float64(),
        Kind.SINGLE: pa.float32(),
        Kind.COUNT: pa.int64(),
        Kind.TRUTH: pa.bool_(),
        Kind.TEXTS: pa.string() if as_read else pa.list_(pa.string()),
        Kind.BOXES: pa.string() if as_read else pa.list_(pa.struct(box)),
    }
    return {name: kinds[kind] for name, kind in columns.items()}


def _unpacked(pa: Any, column: Any, wanted: Any) -> Any:
    """A column of a CSV as it goes into the file."""
    if column.type == wanted:
        return column
    split = json.loads if pa.types.is_struct(wanted.value_type) else lambda text: text.split("|")
    return pa.array([None if text is None else split(text) for text in column.to_pylist()], type=wanted)


def about_of(file: Path) -> dict[str, str]:
    """What `write` was told about the rows of a file, and their number as `rows`; {} of one that cannot be read."""
    require()
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        found = pq.read_metadata(file)
        return {
            **{name.decode(): value.decode() for name, value in (found.metadata or {}).items()},
            "rows": str(found.num_rows),
        }
    except (OSError, ValueError, pa.ArrowException):
        return {}


def texts_of(file: Path, column: str) -> list[str]:
    """A column of text of a file that `write` made, as its CSV had it; [] of one that cannot be read."""
    require()
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(file) as opened:
            return [text or "" for text in opened.read([column])[column].to_pylist()]
    except (OSError, ValueError, KeyError, pa.ArrowException):
        return []


def read_table(path: Path, clean: Callable[[str], str] = str) -> tuple[list[str], list[tuple[str, dict[str, str]]]]:
    """Header, its names cleaned, and "file:row" and cells as text of each row; see table.read_table.

    Raises:
        MissingDependency: pyarrow is not installed.
        DataError: It cannot be read, is too large, has two columns of one name, or one that is no text, number, date or
            truth value.
    """
    with _opened(path, _LIST_LIMIT_ROWS) as file:
        groups = (file.metadata.row_group(index) for index in range(file.num_row_groups))
        if sum(group.total_byte_size for group in groups) > _LIST_LIMIT_BYTES:
            raise _too_large(path)
        header = [clean(name) for name in file.schema_arrow.names]
        left = _LIST_LIMIT_BYTES
        if doubled := {name for name in header if header.count(name) > 1}:
            raise DataError(f"two columns are called '{min(doubled)}'", where=path)
        rows: list[tuple[str, dict[str, str]]] = []
        for batch in file.iter_batches(_BATCH_ROWS):
            columns = []
            for name, column in zip(header, batch.columns, strict=True):
                left -= _text_bytes(column)
                if left < 0:
                    raise _too_large(path)
                columns.append(_texts(path, name, column))
            for cells in zip(*columns, strict=True):
                rows.append((f"{path}:{len(rows) + 1}", dict(zip(header, cells, strict=True))))
    return header, rows


def read_paths(path: Path) -> Iterator[Path]:
    """The column `path` of a file, or of all such files in a folder by their names; cells are those of fx (see names).

    Raises:
        MissingDependency: pyarrow is not installed.
        DataError: It cannot be read, has no such column, lists nothing, or a row names nothing.
    """
    files = sorted(each for each in path.iterdir() if each.suffix.lower() == SUFFIX) if path.is_dir() else [path]
    if not files:
        raise DataError(f"a folder called so is a list in parts, and there is no {SUFFIX} in it", where=path)
    for file in files:
        with _opened(file, _PATHS_LIMIT_ROWS) as opened:
            if "path" not in opened.schema_arrow.names:
                raise DataError("no column 'path'", where=file, hint=f"columns: {', '.join(opened.schema_arrow.names)}")
            if not opened.metadata.num_rows:
                raise DataError("it lists no picture", where=file)
            number = 0
            for batch in opened.iter_batches(_BATCH_ROWS, columns=["path"]):
                if _text_bytes(batch.column(0)) > _PATH_LIMIT_BYTES * len(batch):
                    raise DataError("its paths are longer than paths can be", where=file)
                for cell in _texts(file, "path", batch.column(0)):
                    number += 1
                    if not cell:
                        raise DataError("no path in this row", where=f"{file}:{number}")
                    yield Path(path_of(cell))


@contextlib.contextmanager
def _opened(path: Path, most_rows: int) -> Iterator[Any]:
    """A Parquet file of somebody, with what is wrong with it told as DataError while it is read."""
    require()
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        about = pq.read_metadata(path)
        names = [field.name for field in about.schema.to_arrow_schema() if _is_text(field.type)]
        # Kept as what differs and where it stands: a text of many rows stands in a file once.
        with pq.ParquetFile(path, metadata=about, read_dictionary=names) as file:
            if file.metadata.num_rows > most_rows:
                raise DataError(f"more than {most_rows:,} rows: this is no list of pictures", where=path)
            yield file
    except (OSError, UnicodeDecodeError, pa.ArrowException) as error:
        raise DataError(f"this Parquet file cannot be read: {_first_line(error)}", where=path) from error


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]


def _too_large(path: Path) -> DataError:
    return DataError(f"larger than {_LIST_LIMIT_BYTES >> 20} MiB: this is no list of pictures", where=path)


def _is_text(kind: Any) -> bool:
    import pyarrow as pa

    return any(ask(kind) for ask in (pa.types.is_string, pa.types.is_large_string, pa.types.is_binary))


def _text_bytes(column: Any) -> int:
    """What the cells of a column would take as text of their own, without making it."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if not (pa.types.is_dictionary(column.type) and _is_text(column.type.value_type)):
        return int(column.nbytes)
    lengths = pc.binary_length(column.dictionary)
    return int(pc.sum(lengths.take(column.indices)).as_py() or 0)


def _texts(path: Path, name: str, column: Any) -> list[str]:
    """The cells of a column as text; "" for null."""
    import pyarrow as pa

    try:
        return [text or "" for text in column.cast(pa.string()).to_pylist()]
    except pa.ArrowException as error:
        kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
        what = f"column '{name}' is {kind}: text, numbers, dates and truth values alone can be used"
        raise DataError(what, where=path) from error
