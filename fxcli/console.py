"""What fx says and shows: messages and progress on stderr, data on stdout. No other module prints.

Every command calls `console.configure()` first, so that --quiet, --json and --debug mean the same everywhere.
"""

from __future__ import annotations

import contextlib
import json
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, TypeVar

from fxcli.errors import FxError

if TYPE_CHECKING:
    from tqdm import tqdm

T = TypeVar("T")

INTENDED_USE = "Research use only; not a medical device."
DEMO = "DEMO: this model was trained on drawn phantoms and says nothing about real pictures."
ASSUMES_FRACTURE = "Every answer assumes that the picture shows a fracture."

# JSON allows them within text.
_LINE_ENDS = {ord(sign): f"\\u{ord(sign):04x}" for sign in "\x85\u2028\u2029"}
# But for tabs and line ends.
_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")


class Console:
    """The two streams. One instance, `console`, serves the process."""

    def __init__(self) -> None:
        self.json = self.quiet = self.debug = False

    def configure(self, *, json: bool = False, quiet: bool = False, debug: bool = False) -> None:
        """Sets what the flags of the command ask for."""
        self.json, self.quiet, self.debug = json, quiet, debug

    def note(self, text: str) -> None:
        """Tells people something on stderr; --quiet silences it."""
        if not self.quiet:
            _say(text)

    def warn(self, text: str) -> None:
        """Tells people, on stderr, something they must know; never silenced."""
        _say(f"warning: {text}")

    def aside(self) -> AbstractContextManager[object]:
        """What a plugin's code prints within it goes to stderr: stdout is data."""
        return contextlib.redirect_stdout(sys.stderr)

    def error(self, error: FxError) -> None:
        """Shows an error on stderr, as one block."""
        sys.stderr.write(_plain(f"error: {error}\n"))

    def data(self, text: str) -> None:
        """Writes one line of data to stdout."""
        sys.stdout.write(text + "\n")
        # Here a reader that has left (`| head`) is noticed while the command can still end well; at exit it is not.
        sys.stdout.flush()

    def record(self, value: Mapping[str, Any]) -> None:
        """Writes one JSON object to stdout, on one line."""
        self.data(json_line(value))

    def table(self, columns: Sequence[str], rows: Iterable[Sequence[object]], *, title: str | None = None) -> None:
        """Draws a table on stdout; columns whose cells are all numbers stand to the right."""
        from rich import box
        from rich.console import Console as Rich
        from rich.table import Table
        from rich.text import Text

        cells = [["" if cell is None else _plain(str(cell)) for cell in row] for row in rows]
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        for index, name in enumerate(columns):
            column = [row[index] for row in cells if row[index]]
            numeric = bool(column) and all(_is_number(cell) for cell in column)
            table.add_column(Text(name), justify="right" if numeric else "left", overflow="fold")
        for row in cells:
            table.add_row(*(Text(cell) for cell in row))
        out = Rich(file=sys.stdout)
        # A pipe has no width: without one rich would fold every table at 80 columns.
        out = out if out.is_terminal else Rich(file=sys.stdout, width=200)
        # Captured, for rich itself ends the process with 1 when the reader has left.
        with out.capture() as drawn:
            out.print(table)
        # A title of rich's would be folded to the width of a narrow table.
        self.data((f"{title}\n" if title else "") + drawn.get().removesuffix("\n"))

    def progress(
        self, items: Iterable[T] = (), *, total: int | None, what: str, unit: str = "img", done: int = 0
    ) -> tqdm[T]:
        """A progress bar on stderr; a line now and then where that is no terminal, and nothing with --quiet."""
        from tqdm import tqdm

        from fxcli.progress import Lines

        kind: type[tqdm[Any]] = tqdm if sys.stderr.isatty() else Lines
        bar: tqdm[T] = kind(
            items, total=total, desc=what, unit=unit, initial=done, disable=self.quiet, leave=False, file=sys.stderr
        )
        return bar


def json_line(value: Mapping[str, Any]) -> str:
    """One JSON object on one line, as JSON Lines want it, for readers that see further line ends, too."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False).translate(_LINE_ENDS)


def _say(text: str) -> None:
    if not sys.stderr.isatty():
        sys.stderr.write(_plain(text) + "\n")
        sys.stderr.flush()
        return
    from tqdm import tqdm

    # A line must not run into a progress bar.
    tqdm.write(_plain(text), file=sys.stderr)


def _plain(text: str) -> str:
    """Text without what moves a terminal's cursor or turns its direction: names of files may hold anything."""
    return _CONTROLS.sub(lambda found: ascii(found[0])[1:-1], text)


def _is_number(text: str) -> bool:
    try:
        float(text.rstrip("%"))
    except ValueError:
        return False
    return True


console = Console()
