"""Who looked at a test part, and when: a file beside the manifest, one line a look, only ever appended to.

A figure chosen among many looks at the same pictures flatters. The ledger keeps nobody from looking; it makes looks
countable.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fxcli.run.files import append_line
from fxcli.run.provenance import now

NAME = "test_looks.jsonl"
# Some 300,000 looks.
_SIZE_LIMIT_BYTES = 64 << 20


@dataclass(frozen=True)
class Look:
    """One look among all at the same test pictures.

    Attributes:
        number: Its place, from 1.
        models: Different models that looked so far, this one included.
        before: Looks by this model before.
    """

    number: int
    models: int
    before: int = 0

    def told(self) -> str:
        """In words, for people."""
        models = "1 model" if self.models == 1 else f"{self.models} different models"
        return f"look {self.number} at this test part, by {models} so far"


def part_of(pictures: Iterable[tuple[str, str]]) -> str:
    """The hash of a test part: of what identifies each picture (its file's hash, or its path) and its label."""
    text = "\n".join(sorted(f"{picture} {label}" for picture, label in pictures))
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


def look(folder: Path, *, part: str, model: str, **more: Any) -> Look:
    """Appends a look and counts all at the same part.

    Args:
        folder: Of the manifest.
        part: See `part_of`.
        model: sha256 of the model file.
        more: For the line, such as the manifest's hash.

    Raises:
        OSError: The file cannot be written to, is a link, or is no ledger by its size.
    """
    file = folder / NAME
    if file.exists() and file.stat().st_size > _SIZE_LIMIT_BYTES:
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), str(file))
    append_line(file, json.dumps({"time": now(), "part": part, "model": model, **more}, ensure_ascii=False))
    same = [line["model"] for line in _lines(file) if line.get("part") == part]
    return Look(len(same), len(set(same)), same.count(model) - 1)


def _lines(file: Path) -> Iterable[dict[str, Any]]:
    for text in file.read_text(encoding="utf-8", errors="replace").split("\n"):
        try:
            line = json.loads(text)
        except (ValueError, RecursionError):
            continue  # cut short when a disk was full; the other looks still count
        if isinstance(line, dict) and isinstance(line.get("model"), str):
            yield line
