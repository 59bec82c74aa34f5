"""How the paths of pictures are shown where people outside may read them: as given, relative, or hashed."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from fxcli.run.key import hashed


class PathStyle(StrEnum):
    """How the paths of pictures are shown: RELATIVE is to a folder, HASHED under a key of the user (see run/key)."""

    GIVEN = "given"
    RELATIVE = "relative"
    HASHED = "hashed"


@dataclass(frozen=True)
class Shown:
    """Path of a picture → what is shown of it.

    Attributes:
        style: RELATIVE is to `base`; HASHED is of the absolute path, so that all commands agree.
        base: A folder, absolute.
    """

    style: PathStyle = PathStyle.GIVEN
    base: Path = Path()

    @classmethod
    def of(cls, style: PathStyle, paths: Sequence[Path]) -> Shown:
        """For a list of pictures, whose deepest common folder is the base."""
        folders = {os.path.dirname(os.path.abspath(path)) for path in paths} if style is PathStyle.RELATIVE else set()
        try:
            return cls(style, Path(os.path.commonpath(folders)) if folders else Path())
        except ValueError:
            return cls(style)  # on several drives of Windows

    def __call__(self, path: Path) -> str:
        """What is shown of one of them."""
        if self.style is PathStyle.GIVEN:
            return str(path)
        absolute = os.path.abspath(path)
        return hashed(absolute) if self.style is PathStyle.HASHED else os.path.relpath(absolute, self.base)


AS_GIVEN = Shown()
