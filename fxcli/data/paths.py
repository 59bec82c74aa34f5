"""How the paths of pictures are shown where people outside may read them: as given, relative, or hashed."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fxcli.run.key import hashed

GIVEN, RELATIVE, HASHED = "given", "relative", "hashed"


@dataclass(frozen=True)
class Shown:
    """Path of a picture → what is shown of it.

    Attributes:
        style: GIVEN, RELATIVE (to `base`) or HASHED (see run/key; of the absolute path, so that all commands agree).
        base: A folder, absolute.
    """

    style: str = GIVEN
    base: Path = Path()

    @classmethod
    def of(cls, style: str, paths: Sequence[Path]) -> Shown:
        """For a list of pictures, whose deepest common folder is the base."""
        folders = {os.path.dirname(os.path.abspath(path)) for path in paths} if style == RELATIVE else set()
        try:
            return cls(style, Path(os.path.commonpath(folders)) if folders else Path())
        except ValueError:
            return cls(style)  # on several drives of Windows

    def __call__(self, path: Path) -> str:
        """What is shown of one of them."""
        if self.style == GIVEN:
            return str(path)
        absolute = os.path.abspath(path)
        return hashed(absolute) if self.style == HASHED else os.path.relpath(absolute, self.base)


AS_GIVEN = Shown()
