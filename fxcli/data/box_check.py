"""Boxes of a source on the pictures to prepare: found, turned as EXIF turns the picture, checked. Called by prepare."""

from __future__ import annotations

import json
import math
import shlex
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from fxcli.console import console
from fxcli.data.annotations import Annotated, Annotation, Corners, Source
from fxcli.data.names import class_name, is_class_name
from fxcli.errors import DataError

# Tools round to whole pixels; half a one outside is none of their errors.
_ROUNDING_PX = 0.5
_MOST_LABELS = 20
# EXIF's orientations from here on turn by 90°.
_SIDEWAYS = 5
# EXIF's orientations, as what becomes of (left, top, right, bottom) in a picture stored with (width, height).
_TURNS: dict[int, Callable[[Corners, float, float], Corners]] = {
    2: lambda c, w, h: (w - c[2], c[1], w - c[0], c[3]),
    3: lambda c, w, h: (w - c[2], h - c[3], w - c[0], h - c[1]),
    4: lambda c, w, h: (c[0], h - c[3], c[2], h - c[1]),
    5: lambda c, w, h: (c[1], c[0], c[3], c[2]),
    6: lambda c, w, h: (h - c[3], c[0], h - c[1], c[2]),
    7: lambda c, w, h: (h - c[3], w - c[2], h - c[1], w - c[0]),
    8: lambda c, w, h: (c[1], w - c[2], c[3], w - c[0]),
}


@dataclass(frozen=True)
class Matched:
    """What a source of boxes says of a list of pictures.

    Attributes:
        source: Of boxes.
        classes: Label → class.
        by_name: Of each picture that it lists, or that is known by not being listed, without the boxes to pass over.
        unused: How many pictures it lists that are not in the list.
    """

    source: Source
    classes: Mapping[str, str]
    by_name: Mapping[str, Annotated]
    unused: int


@dataclass(frozen=True)
class Gathered:
    """The boxes of a list of pictures.

    Attributes:
        classes: Names, sorted.
        boxes: Of each picture: those on it, with classes as labels, in its own pixels; None if nothing is known of it.
        wrong: A line for each box that was cut or left out, with its place.
        unused: How many pictures the source knows that are not in the list.
    """

    classes: tuple[str, ...]
    boxes: list[list[Annotation] | None]
    wrong: list[str]
    unused: int

    @property
    def without_box(self) -> list[str]:
        """Classes that no box has."""
        had = {box.label for each in self.boxes for box in each or ()}
        return [name for name in self.classes if name not in had]

    def told(self) -> str:
        """For people: how many there are, on how many pictures."""
        n = self.record()
        known = f"{n['boxes']} boxes on {n['pictures_with']} pictures, {n['pictures_without']} pictures without one"
        return f"{known}, and {n['pictures_unknown']} of which the boxes' source tells nothing"

    def record(self) -> dict[str, Any]:
        """For the fingerprint."""
        known = [each for each in self.boxes if each is not None]
        return {
            "classes": list(self.classes),
            "boxes": sum(map(len, known)),
            "pictures_with": sum(bool(each) for each in known),
            "pictures_without": sum(not each for each in known),
            "pictures_unknown": len(self.boxes) - len(known),
            "pictures_unused": self.unused,
            "wrong": self.wrong,
        }


def match(
    source: Source,
    classes: Mapping[str, str | None],
    names: Sequence[str],
    unlisted: Literal["unknown", "negative"] = "unknown",
) -> Matched:
    """Finds pictures in a source of boxes.

    Args:
        source: Of boxes.
        classes: Label → class, or None for boxes to pass over; empty keeps every label.
        names: Of all pictures, relative to their source, whether they can be read or not.
        unlisted: What pictures are that the source does not list. As negatives count none that are called as one that
            it lists, and whose boxes found no picture.

    Raises:
        DataError: A label gives no usable class name, is not the source's, or there is no class; two pictures share the
            boxes of one; or the source knows none of the pictures.
    """
    if unknown := [label for label in classes if label not in source.labels]:
        what = f"these boxes have no label {', '.join(unknown)}, which boxes.classes names"
        known = ", ".join(label[:80] for label in source.labels[:_MOST_LABELS]) or "none"
        raise DataError(what, where=source.file, hint=f"their labels: {known}")
    named: Mapping[str, str | None] = classes or {label: label for label in source.labels}
    _check_names(named, source.file)
    taken: dict[str, str] = {}
    for name, key in zip(names, source.match(names), strict=True):
        if key is not None and (other := taken.setdefault(key, name)) != name:
            raise DataError(f"{other} and {name} are the same picture to these boxes", where=source.file)
    if not taken:
        raise DataError(f"boxes of {len(source.pictures)} pictures, none of them among these", where=source.file)
    by_name = {name: _without(source.pictures[key], named) for key, name in taken.items()}
    if unlisted == "negative":
        others = source.unlike(set(names) - by_name.keys(), taken)
        by_name |= {name: Annotated(file=source.file) for name in others}
    with_class = {label: name for label, name in named.items() if name}
    return Matched(source, with_class, by_name, len(source.pictures) - len(taken))


def _without(found: Annotated, classes: Mapping[str, str | None]) -> Annotated:
    """What a source says of a picture, but for boxes that are to be passed over."""
    return replace(found, boxes=tuple(box for box in found.boxes if classes.get(box.label, "") is not None))


def _check_names(classes: Mapping[str, str | None], file: Path) -> None:
    """Now, not when a detector is trained: preparing may take long."""
    for label, name in classes.items():
        if name is not None and not is_class_name(name):
            example = (
                f"boxes.classes={{{json.dumps(label[:80], ensure_ascii=False)}: {class_name(label)[:80] or 'NAME'}}}"
            )
            hint = f"boxes.classes names each label's class: --set {shlex.quote(example)}"
            raise DataError(f"{name[:80]!r} cannot name a class of boxes", where=file, hint=hint)
    if not any(classes.values()):
        raise DataError("no label of these boxes has a class", where=file)


def gather(
    matched: Matched, pictures: Sequence[tuple[str, tuple[int, int], int]], shown: Mapping[str, str] | None = None
) -> Gathered:
    """Puts boxes on pictures, and checks them.

    Args:
        matched: The boxes.
        pictures: Those that can be read: name, size in pixels after turning, and EXIF orientation.
        shown: Name → what `wrong` tells in place of the file of its boxes, which may be called as the picture is.

    Raises:
        DataError: Boxes refer to a picture of another size.
    """
    known = [matched.by_name.get(name) for name, _, _ in pictures]
    file, named = matched.source.file, matched.classes
    turned = matched.source.are_turned
    if turned is None:
        # Who lists a picture without a box may have its size from elsewhere.
        sizes = [
            (found.size_px, size_px, orientation)
            for found, (_, size_px, orientation) in zip(known, pictures, strict=True)
            if found and found.boxes and found.size_px
        ]
        turned = are_turned(sizes)
        if turned is None and (doubtful := sum(orientation in _TURNS for *_, orientation in sizes)):
            console.warn(
                f"{file}: no size tells whether boxes are on pictures as stored or as EXIF turns them; "
                f"those of {doubtful} that EXIF turns are taken as stored "
                '("info": {"turned_by_exif": true} in a COCO file says otherwise)'
            )
    boxes, wrong = list[list[Annotation] | None](), list[str]()
    for (name, size_px, orientation), found in zip(pictures, known, strict=True):
        if found is None or not found.is_known:
            boxes.append(None)
            continue
        try:
            here = placed(found, size_px, orientation, turned=turned)
        except DataError as error:
            raise DataError(f"{name}: {error.what}", where=file) from error
        kept, told = checked(here, size_px, named)
        wrong += [f"{shown[name] if shown else found.file}{line}" for line in told]
        # Of a picture whose every box was left out nothing is known: it is no negative.
        is_known = bool(kept) or not found.boxes
        boxes.append([replace(box, label=named[box.label]) for box in kept] if is_known else None)
    return Gathered(tuple(sorted(set(named.values()))), boxes, wrong, matched.unused)


def label(matched: Matched, name: str) -> str:
    """What a picture is labelled by its boxes: their class, or what stands for several, or for none.

    Raises:
        DataError: The source does not know the picture, or none of its boxes has a label that is known.
    """
    found, named = matched.by_name.get(name), matched.classes
    if found is None or not found.is_known:
        hint = "leave it out of the source, or set boxes.label=false and label pictures by folders or a column"
        if found is None:
            hint += "; boxes.unlisted=negative if the boxes' source lists only pictures that have some"
        raise DataError("nothing is known of this picture, with boxes or without", where=name, hint=hint)
    here = {named[box.label] for box in found.boxes if box.label in named}
    if found.boxes and not here:
        unknown = ", ".join(sorted({repr(box.label[:80]) for box in found.boxes}))
        hint = "name their class in boxes.classes, or null to pass them over"
        raise DataError(f"all boxes of this picture are of unknown labels: {unknown}", where=name, hint=hint)
    if len(here) > 1:
        return "boxed"
    every = set(named.values())
    return here.pop() if here else f"no_{every.pop()}" if len(every) == 1 else "no_box"


def are_turned(sizes: Iterable[tuple[tuple[int, int], tuple[int, int], int]]) -> bool | None:
    """Whether the boxes of a source are on pictures as EXIF turns them, or as they are stored; None: no picture tells.

    Those that EXIF turns by 90° tell, by the size that their boxes refer to; most of them decide.

    Args:
        sizes: Of each picture: the size that its boxes refer to, its size after turning, its EXIF orientation.
    """
    votes = Counter[bool]()
    for named, turned, orientation in sizes:
        if orientation >= _SIDEWAYS and turned[0] != turned[1] and named in (turned, turned[::-1]):
            votes[named == turned] += 1
    return votes[True] > votes[False] if votes else None


def placed(found: Annotated, size_px: tuple[int, int], orientation: int, *, turned: bool | None) -> list[Annotation]:
    """Boxes in pixels of a picture as EXIF turns it.

    Args:
        found: What a source says of it.
        size_px: (width, height), turned.
        orientation: EXIF's, 1 to 8.
        turned: What `are_turned` says, for pictures whose size does not tell.

    Raises:
        DataError: The boxes refer to a picture of another size.
    """
    stored = size_px[::-1] if orientation >= _SIDEWAYS else size_px
    if found.size_px is None:
        # Tools that write fractions turn pictures first.
        return [replace(box, corners=_scaled(box.corners, size_px)) for box in found.boxes]
    if found.size_px not in (size_px, stored):
        named, real = (f"{width} × {height}" for width, height in (found.size_px, size_px))
        raise DataError(f"its boxes refer to a picture of {named} px, and it has {real}")
    is_as_stored = found.size_px != size_px if size_px != stored else not turned
    if not is_as_stored or orientation not in _TURNS:
        return list(found.boxes)
    return [replace(box, corners=_TURNS[orientation](box.corners, *stored)) for box in found.boxes]


def _scaled(corners: Corners, size_px: tuple[int, int]) -> Corners:
    width, height = size_px
    return corners[0] * width, corners[1] * height, corners[2] * width, corners[3] * height


def checked(
    boxes: Iterable[Annotation], size_px: tuple[int, int], labels: Collection[str], *, least_px: float = 1.0
) -> tuple[list[Annotation], list[str]]:
    """Boxes that lie within their picture, and what was wrong with others.

    Args:
        boxes: As `placed` gives them.
        size_px: (width, height) of the picture.
        labels: Those that are known.
        least_px: Of a side that lies in the picture.

    Returns:
        The boxes, cut at the picture's border, without those of which nothing can be used; and a line for each that
        was cut by more than rounding, or left out; it begins with the box's place.
    """
    kept, told = [], []
    for box in boxes:
        width, height = size_px
        left, top, right, bottom = box.corners
        inside = (min(max(left, 0.0), width), min(max(top, 0.0), height), min(right, width), min(bottom, height))
        outside_px = max(abs(a - b) for a, b in zip(box.corners, inside, strict=True))
        wrong = ""
        if not all(map(math.isfinite, box.corners)):
            wrong = "not a finite number"
        elif box.label not in labels:
            wrong = f"unknown class {box.label[:80]!r}" if box.label else "its number is that of no class"
        elif right < left or bottom < top:
            wrong = "inverted: its right or lower border lies before the other"
        elif right - left < least_px or bottom - top < least_px:
            wrong = "empty: less than a pixel wide or high"
        elif inside[2] <= inside[0] or inside[3] <= inside[1]:
            wrong = "wholly outside its picture"
        elif inside[2] - inside[0] < least_px or inside[3] - inside[1] < least_px:
            wrong = "less than a pixel of it lies in its picture"
        if not wrong:
            kept.append(replace(box, corners=inside))
            wrong = f"{outside_px:.1f} px outside its picture" if outside_px > _ROUNDING_PX else ""
        if wrong:
            told.append(f"{box.place}: {wrong}")
    return kept, told
