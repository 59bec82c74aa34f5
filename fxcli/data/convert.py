"""One picture's way into a prepared folder: decoded, cleaned, written as PNG, and looked at for the audit."""

from __future__ import annotations

import functools
import hashlib
import json
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image, PngImagePlugin

from fxcli.console import console
from fxcli.data.names import plain_name
from fxcli.data.preprocess import Clean, Cleaned
from fxcli.data.radiograph import Caution, Radiograph
from fxcli.data.read import MARK
from fxcli.data.views import LOOKED_AT_PX, View, view
from fxcli.errors import DataError, UnreadableImage
from fxcli.recipe.preparation import PrepareRecipe


@dataclass(frozen=True)
class Item:
    """A picture on its way into the prepared folder.

    Attributes:
        name: Of the source, relative or hashed; named in the manifest and in errors.
        label: Its class.
        split: As given, or None.
        patient: As given, or None.
        digest: sha256 of the source.
        load: Decodes it.
        group: Likewise: pictures of one group must not straddle a split.
        source: Its relative name, for what names tell; "" if that is `name`.
        extra: Further columns of the manifest.
    """

    name: str
    label: str
    split: str | None
    patient: str | None
    digest: Callable[[], str]
    load: Callable[[], Radiograph]
    group: str | None = None
    source: str = ""
    extra: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Made:
    """A picture that is cleaned and written, but has no split yet.

    Attributes:
        item: It.
        file: Where it lies for now.
        digest: sha256 of the source.
        width_px: Of the raw picture.
        height_px: Likewise.
        is_phantom: Whether fx drew it.
        view: For the audit; None if pictures are not compared.
        colour_frac: Coloured fraction of the raw picture; 0 if pictures are not compared.
        patient: As its file says: equal for pictures of one patient, "" if unknown; what it says stays here.
        study: Likewise.
        orientation: EXIF's number of the turn that it was given.
        cautions: What people should know of it.
    """

    item: Item
    file: Path
    digest: str
    width_px: int
    height_px: int
    is_phantom: bool
    view: View | None
    colour_frac: float
    patient: str
    study: str
    orientation: int
    cautions: tuple[Caution, ...]


def convert(
    items: Sequence[Item], recipe: PrepareRecipe, part: Path, unreadable: list[dict[str, str]], *, searched: bool
) -> list[Made]:
    """Cleans and writes all pictures that can be read, as PNG below `part`/pictures.

    Args:
        items: To convert.
        recipe: Says how.
        part: The prepared folder in the making.
        unreadable: Gets path and reason of each picture that cannot be used.
        searched: Whether the audit will compare pictures.

    Raises:
        DataError: No picture can be read.
    """
    one = functools.partial(_convert, Clean(recipe.data.prepared_px, recipe.data.window), part, searched)
    made: list[Made] = []
    # Threads, not processes: decoding, resizing and compressing all release the interpreter's lock.
    pool = ThreadPoolExecutor(max_workers=workers(recipe))
    try:
        for result in console.progress(pool.map(one, items), total=len(items), what="prepare"):
            if isinstance(result, UnreadableImage):
                unreadable.append({"path": str(result.where), "reason": result.reason})
            else:
                made.append(result)
    finally:
        # After Ctrl-C nothing that still waits may start.
        pool.shutdown(cancel_futures=True)
    if not made:
        first, source = unreadable[0], Path(str(recipe.data.source))
        beside = source.parent / (recipe.data.columns.folder or "")
        hint = "" if source.is_dir() else f"paths in {source.name} are looked for from {beside} on"
        raise DataError(f"no picture can be read; the first: {first['reason']}", where=first["path"], hint=hint)
    return made


def workers(recipe: PrepareRecipe) -> int:
    """How many threads, or processes, share the work."""
    return max(1, recipe.data.workers if recipe.data.workers is not None else os.cpu_count() or 1)


def _convert(clean: Clean, part: Path, searched: bool, item: Item) -> Made | UnreadableImage:
    try:
        radiograph = item.load()
        cleaned = clean(radiograph, Path(item.name))
        # Of what can be read alone: a file that is none may be without end.
        digest = item.digest()
    except UnreadableImage as error:
        return UnreadableImage(item.name, error.reason)
    except OSError as error:
        return UnreadableImage(item.name, f"cannot be read: {error.strerror or error}")
    file = part / "pictures" / _file_name(item.name)
    _save(cleaned, clean.mark(cleaned), file)
    seen = _view(clean, cleaned, radiograph) if searched else None
    colour = radiograph.colour_frac if searched else 0.0
    return Made(
        item=item,
        file=file,
        digest=digest,
        width_px=cleaned.width_px,
        height_px=cleaned.height_px,
        is_phantom=cleaned.is_phantom,
        view=seen,
        colour_frac=colour,
        patient=radiograph.patient,
        study=radiograph.study,
        orientation=radiograph.orientation,
        cautions=cleaned.cautions,
    )


def _view(clean: Clean, cleaned: Cleaned, radiograph: Radiograph) -> View:
    if clean.prepared_px < LOOKED_AT_PX and cleaned.pixels is not radiograph.pixels:
        # What is found must not depend on how small the pictures are wanted.
        cleaned = Clean(LOOKED_AT_PX, clean.window)(radiograph, Path())
    left, top, right, bottom = cleaned.box
    return view(cleaned.pixels[top:bottom, left:right])


def _file_name(source: str) -> str:
    """A name that is safe everywhere and that no other source path gets."""
    digest = hashlib.sha256(source.encode("utf-8", "surrogateescape")).hexdigest()[:12]
    return f"{plain_name(Path(source).stem)[:60]}-{digest}.png"


def _save(cleaned: Cleaned, mark: dict[str, Any], target: Path) -> None:
    target.parent.mkdir(exist_ok=True)
    text = PngImagePlugin.PngInfo()
    text.add_text(MARK, json.dumps(mark))
    Image.fromarray(cleaned.pixels).save(target, pnginfo=text, compress_level=3)
