"""Names from outside, of files and classes, as text: valid UTF-8, no formula, and back again. Called for every output.

A name is a row of bytes on most systems, and of UTF-16 on Windows; what is no text Python keeps as lone surrogates,
which no UTF-8 file can hold. Nothing else of a name is changed: composed and decomposed letters stay as they are.
"""

from __future__ import annotations

import re
from pathlib import PurePath

# What a spreadsheet may take for the start of a formula, or skip in front of one (OWASP, CSV injection).
FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")

# A table of confusions has its square.
MAX_CLASSES = 1000

_LONE = re.compile("[\ud800-\udfff]")
_ESCAPE = re.compile(r"\\u(d[89a-f][0-9a-f]{2})")
_BACKSLASH = "\udc5c"
_GUARDED = re.compile(f"'+[{re.escape(''.join(FORMULA))}]")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.ASCII | re.IGNORECASE)
# Not with a dot first: it names a folder, too, which would be a hidden one.
_CLASS = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,254}")


def plain_name(text: str) -> str:
    """Letters, digits, _ and - of a text, and _ in place of all else, at most 64: a name for a recipe or a run."""
    return "".join(sign if sign.isascii() and (sign.isalnum() or sign in "_-") else "_" for sign in text)[:64]


def without_middle(text: str, most: int) -> str:
    """A text of at most `most` signs, one of which is … for its middle: names often differ at their ends alone."""
    tail = most // 2
    return text if len(text) <= most else f"{text[: most - tail - 1]}…{text[len(text) - tail :]}"


def escaped(name: str) -> str:
    r"""A name in valid UTF-8.

    A byte that is no UTF-8 becomes `\udcNN`, NN its value in hex (as Python would write it), and where a name has such
    text in it already, the backslash of that text becomes `\udc5c`.
    """
    if _LONE.search(name) is None and _ESCAPE.search(name) is None:
        return name
    named = _ESCAPE.sub(lambda found: f"{_BACKSLASH}u{found[1]}", name)
    return _LONE.sub(lambda found: f"\\u{ord(found[0]):04x}", named)


def unescaped(text: str) -> str:
    """The name that `escaped` made the text of."""
    return _ESCAPE.sub(lambda found: chr(int(found[1], 16)), text).replace(_BACKSLASH, "\\")


def path_cell(path: str | PurePath) -> str:
    """A path as the cell of a CSV, and as text in JSON: escaped, and never what a spreadsheet takes for a formula."""
    return no_formula(escaped(str(path)))


def no_formula(path: str) -> str:
    """The same path, relative to here in so many words if a spreadsheet would take it for a formula."""
    return f"./{path}" if path.startswith(FORMULA) else path


def path_of(cell: str) -> str:
    """The path that `path_cell` made the cell of."""
    text = unescaped(cell)
    return text[2:] if text.startswith("./") and text[2:].startswith(FORMULA) else text


def text_cell(text: str) -> str:
    """Other text as the cell of a CSV: what would be a formula gets a quotation mark in front; numbers are none."""
    is_formula = text.startswith(FORMULA) and _NUMBER.fullmatch(text) is None
    return f"'{text}" if is_formula or _GUARDED.match(text) else text


def text_of(cell: str) -> str:
    """The text that `text_cell` made the cell of."""
    return cell[1:] if _GUARDED.match(cell) else cell


def is_class_name(name: object) -> bool:
    """Whether it may name a class: letters, digits, `_`, `.` and `-`, the last two not first; and not `_` alone."""
    return isinstance(name, str) and _CLASS.fullmatch(name) is not None and any(map(str.isalnum, name))


def class_name(text: str) -> str:
    """A text as the name of a class, `_` in place of what none may have; of some nothing is left, or no such name."""
    return "".join(c if c.isascii() and (c.isalnum() or c in "_.-") else "_" for c in text).strip("_").lstrip("_.-")


def are_class_names(names: object) -> bool:
    """Whether a header's list may be the classes of a model: at least one, not too many, each a name, none twice."""
    if not isinstance(names, list) or not 0 < len(names) <= MAX_CLASSES:
        return False
    return all(map(is_class_name, names)) and len(set(names)) == len(names)
