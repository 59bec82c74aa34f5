"""Boxes as others write them: COCO, YOLO and Pascal VOC, each read into one form. Called by prepare and boxes.

What is wrong with a box is told by box_check, which knows the picture's size. See boxes for what fx itself keeps.
"""

from __future__ import annotations

import functools
import json
import xml.etree.ElementTree as ElementTree
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from fxcli.console import console
from fxcli.data.names import escaped
from fxcli.data.read import without_ending
from fxcli.errors import DataError, RecipeError
from fxcli.recipe.source import plain, read_tree

Corners = tuple[float, float, float, float]

_SIZE_LIMIT_BYTES = 256 << 20
# Of one picture.
_TEXT_LIMIT_BYTES = 4 << 20
# In `info` of a COCO file: its boxes are on pictures as EXIF turns them.
TURNED = "turned_by_exif"
_YOLO_NAMES = ("data.yaml", "dataset.yaml", "classes.txt", "obj.names", "_darknet.labels")


@dataclass(frozen=True)
class Annotation:
    """One box.

    Attributes:
        label: As written; "" for a number that names no class.
        corners: (left, top, right, bottom), in pixels, or in fractions of the picture where it has no size.
        place: Where in its file it is written, as errors have it behind the file's name: ":3" is a line.
    """

    label: str
    corners: Corners
    place: str


@dataclass(frozen=True)
class Annotated:
    """What a source says of one picture.

    Attributes:
        boxes: None of them on a picture that is known means that nothing is there: it is a negative.
        size_px: (width, height) that the boxes refer to; None for fractions.
        file: That says so.
        is_known: Whether it says what is where; not where it says no more than that there is a crowd.
    """

    boxes: tuple[Annotation, ...] = ()
    size_px: tuple[int, int] | None = None
    file: Path = field(default=Path(), compare=False)
    is_known: bool = True


@dataclass(frozen=True)
class Source:
    """All boxes of a source.

    Attributes:
        file: The file or folder.
        pictures: By name, with forward slashes and without the ending where files are told apart by it alone.
        labels: Every label that a box may have.
        has_endings: Whether the names have theirs.
        are_turned: Whether the boxes are on pictures as EXIF turns them, where the source itself says so.
    """

    file: Path
    pictures: Mapping[str, Annotated]
    labels: tuple[str, ...]
    has_endings: bool
    are_turned: bool | None = None

    def match(self, names: Sequence[str]) -> list[str | None]:
        """Finds pictures by their path relative to the source of pictures, or where either is the other's end.

        Only where no picture is found so, by their file name alone, if no other has it.

        Args:
            names: These paths, of all pictures: what has the path of one of them is no other's.

        Returns:
            The key of each in `pictures`; None if the source does not know it.
        """
        keys = [self._keys(name) for name in names]
        exact = [next((key for key in each if key in self.pictures), None) for each in keys]
        taken = set(exact)
        found = [key or self._alike(each, taken, by_path=True) for key, each in zip(exact, keys, strict=True)]
        return found if any(found) else [self._alike(each, taken, by_path=False) for each in keys]

    def unlike(self, names: Iterable[str], taken: Collection[str]) -> list[str]:
        """Those whose file name nothing has that it lists, but for keys that pictures have taken."""
        left = {_last(key) for key in self.pictures.keys() - set(taken)}
        return [name for name in names if _last(self._keys(name)[0]) not in left]

    @functools.cached_property
    def _by_end(self) -> Mapping[str, list[str]]:
        """Keys by each end of theirs; of studies all pictures may be called alike, so names alone find too many."""
        found: dict[str, list[str]] = defaultdict(list)
        for name in self.pictures:
            for end in _ends(name):
                found[end].append(name)
        return found

    def _keys(self, name: str) -> list[str]:
        """What a picture may be called here, the likeliest first."""
        if self.has_endings:
            return [name]
        stem = without_ending(name)
        # Of YOLO's folders, train/images/a.jpg and train/labels/a.txt belong together.
        above, images, below = f"/{stem}".rpartition("/images/")
        return [stem, f"{above}/labels/{below}"[1:]] if images else [stem]

    def _alike(self, keys: Sequence[str], taken: Collection[str | None], *, by_path: bool) -> str | None:
        if by_path:
            # Of the same pictures, named from further up or further down.
            ends = [end for key in keys for end in _ends(key) if end in self.pictures]
            alike = list({*ends, *(other for key in keys for other in self._by_end.get(key, ()))})
        else:
            alike = self._by_end.get(_last(keys[0]), [])
        return alike[0] if len(alike) == 1 and alike[0] not in taken else None


def _last(name: str) -> str:
    return name.rpartition("/")[2]


def _ends(name: str) -> list[str]:
    """What a path is called from each of its folders, itself first."""
    parts = name.split("/")
    return ["/".join(parts[at:]) for at in range(len(parts))]


def read_annotations(path: Path) -> Source:
    """Reads a COCO file, a folder of YOLO's .txt files, or a folder of Pascal VOC's .xml files.

    Of a folder with both, the kind is read that has more files (YOLO of as many). Hidden files and folders, READMEs and
    YOLO's lists of pictures are passed over, and where folders are called labels whatever lies elsewhere.

    Raises:
        DataError: It is none of them, or cannot be read.
    """
    if path.is_file():
        return _coco(path)
    if not path.is_dir():
        raise DataError("no such file or folder of boxes", where=path)
    texts, documents = _files(path, ".txt"), _files(path, ".xml")
    if not texts and not documents:
        hint = "a COCO file, or a folder of YOLO's .txt or of Pascal VOC's .xml files"
        raise DataError("no boxes here", where=path, hint=hint)
    is_voc = len(documents) > len(texts)
    if texts and documents:
        counts = f"{len(texts)} .txt and {len(documents)} .xml"
        console.warn(f"{path}: {counts} files of boxes, of which the {'.xml' if is_voc else '.txt'} files are read")
    return _voc(path, documents) if is_voc else _yolo(path, texts)


def _files(folder: Path, ending: str) -> list[Path]:
    """Those below a folder that may hold boxes: where folders are called labels, none elsewhere."""
    found = []
    for file in sorted(folder.rglob(f"*{ending}")):
        parts = file.relative_to(folder).parts
        is_hidden = any(part.startswith(".") for part in parts)
        if not is_hidden and file.name not in _YOLO_NAMES and file.name.lower().partition(".")[0] != "readme":
            found.append((file, "labels" in parts[:-1]))
    return [file for file, is_label in found if is_label] or [file for file, _ in found]


def _coco(path: Path) -> Source:
    content = _text(path, _SIZE_LIMIT_BYTES)
    try:
        values = json.loads(content)
        labels = {int(each["id"]): str(each["name"]) for each in values["categories"]}
        crowds, in_crowds = 0, set()
        boxes: dict[int, list[Annotation]] = defaultdict(list)
        for number, each in enumerate(values["annotations"]):
            place = f": annotations[{number}]"
            if each.get("iscrowd"):
                crowds += 1
                in_crowds.add(each["image_id"])
                continue
            left, top, width, height = (float(value) for value in each["bbox"])
            corners = (left, top, left + width, top + height)
            boxes[each["image_id"]].append(Annotation(labels.get(each["category_id"], ""), corners, place))
        images = values["images"]
        # Tools write the separators of Windows, too.
        names = [escaped(str(PurePosixPath(each["file_name"].replace("\\", "/")))) for each in images]
        for kind in ("images", "categories"):
            _once([str(each["id"]) for each in values[kind]], path, f"this id of {kind}")
        pictures = {}
        for name, each in zip(names, images, strict=True):
            # Of a picture with nothing else it is not known what is where: it is no negative.
            is_known = each["id"] in boxes or each["id"] not in in_crowds
            size_px = (int(each["width"]), int(each["height"]))
            pictures[name] = Annotated(tuple(boxes.pop(each["id"], ())), size_px, path, is_known)
        are_turned = True if (values.get("info") or {}).get(TURNED) is True else None
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, RecursionError) as error:
        raise DataError(f"not a COCO file: {type(error).__name__}: {error}", where=path) from error
    _once(names, path)
    if crowds:
        console.warn(
            f"{path}: {crowds} boxes around a crowd of things (iscrowd) are passed over, and pictures with nothing else"
        )
    if boxes:
        place = next(iter(boxes.values()))[0].place
        raise DataError(f"boxes of {len(boxes)} images that are not listed", where=f"{path}{place}")
    return Source(path, pictures, tuple(labels.values()), has_endings=True, are_turned=are_turned)


def _yolo(folder: Path, files: Sequence[Path]) -> Source:
    names = _yolo_names(folder, files)
    labels = dict(enumerate(names))
    pictures = {}
    for file in files:
        lines = [line.strip() for line in _text(file, _TEXT_LIMIT_BYTES).splitlines()]
        if _are_pictures(lines):
            continue
        boxes = tuple(_yolo_box(line.split(), file, f":{n}", labels) for n, line in enumerate(lines, 1) if line)
        pictures[_stem(file, folder)] = Annotated(boxes, file=file)
    return Source(folder, pictures, tuple(names), has_endings=False)


def _are_pictures(lines: Sequence[str]) -> bool:
    """Whether each names one, as those of train.txt do, which darknet and CVAT have beside the folder of boxes."""
    return any(lines) and all(without_ending(line) != line for line in lines if line)


def _yolo_box(cells: Sequence[str], file: Path, place: str, labels: Mapping[int, str]) -> Annotation:
    """class, centre x and y, width, height; or class and the corners of a polygon. Fractions of the picture."""
    try:
        number, values = int(cells[0]), [float(cell) for cell in cells[1:]]
    except ValueError as error:
        raise DataError(f"not a box of YOLO: {error}", where=f"{file}{place}") from error
    if len(values) == 4:
        x, y, width, height = values
        corners = (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
    elif len(values) >= 6 and len(values) % 2 == 0:
        corners = (min(values[::2]), min(values[1::2]), max(values[::2]), max(values[1::2]))
    else:
        what = f"a box of YOLO has a class and 4 numbers, this line {len(values)}"
        raise DataError(what, where=f"{file}{place}")
    return Annotation(labels.get(number, ""), corners, place)


def _yolo_names(folder: Path, files: Sequence[Path]) -> list[str]:
    """The names of classes: of the folder, else of those that its boxes lie in, else of the one that it lies in."""
    if own := _names_in(folder):
        return own
    found = {each: names for each in dict.fromkeys(file.parent for file in files) if (names := _names_in(each))}
    first = next(iter(found), folder.parent)
    if other := next((each for each, names in found.items() if names != found[first]), None):
        # As labelImg numbers them anew in each.
        raise DataError(f"other names of classes than in {first}", where=other, hint="boxes.source names one of them")
    if names := found.get(first) or _names_in(first):
        return names
    raise DataError(
        "no names of classes for boxes of YOLO",
        where=folder,
        hint=f"{' or '.join(_YOLO_NAMES[:3])} in this folder, beside the boxes, or beside this folder",
    )


def _names_in(folder: Path) -> list[str]:
    """The names of classes that a file in a folder tells; none if there is no such file."""
    file = next((folder / name for name in _YOLO_NAMES if (folder / name).is_file()), None)
    if file is None:
        return []
    if file.suffix != ".yaml":
        lines = [line.strip() for line in _text(file, _TEXT_LIMIT_BYTES).rstrip().splitlines()]
        if not all(lines):
            what = "a blank line before a name of a class: some tools count it, and number what follows by it"
            raise DataError(what, where=f"{file}:{lines.index('') + 1}", hint="take it out, or put a name there")
        if not lines:
            raise DataError("no names of classes here: this file is empty", where=file)
        return lines
    try:
        found = plain(read_tree(file, str(file)))
    except RecipeError as error:
        raise DataError(f"the names of classes cannot be read: {error}", where=file) from error
    if isinstance(found, dict) and found.get("kpt_shape"):
        raise DataError("these lines are of poses (kpt_shape), not of boxes or polygons", where=file)
    names = found.get("names") if isinstance(found, dict) else None
    if isinstance(names, dict) and all(str(number) in names for number in range(len(names))):
        names = [names[str(number)] for number in range(len(names))]
    if isinstance(names, list) and names:
        return [str(name) for name in names]
    raise DataError("no names of classes here: names is a list, or 0, 1, … with a name each", where=file)


def _voc(folder: Path, files: Sequence[Path]) -> Source:
    pictures = {}
    for file in files:
        content = _text(file, _TEXT_LIMIT_BYTES)
        if "<!" in content.replace("<!--", ""):
            raise DataError("this XML declares entities, which no file of Pascal VOC does", where=file)
        try:
            root = ElementTree.fromstring(content)
            size = tuple(int(_of(root, f"size/{name}")) for name in ("width", "height"))
            boxes = tuple(_voc_box(each, f": object {n}") for n, each in enumerate(root.iter("object"), 1))
        except (ElementTree.ParseError, ValueError) as error:
            raise DataError(f"not a file of Pascal VOC: {error}", where=file) from error
        pictures[_stem(file, folder)] = Annotated(boxes, (size[0], size[1]), file)
    labels = dict.fromkeys(box.label for picture in pictures.values() for box in picture.boxes)
    return Source(folder, pictures, tuple(labels), has_endings=False)


def _voc_box(element: ElementTree.Element, place: str) -> Annotation:
    # Pixels are counted from 1, and the last one belongs to the box (VOC 2012 development kit).
    left, top, right, bottom = (float(_of(element, f"bndbox/{name}")) for name in ("xmin", "ymin", "xmax", "ymax"))
    return Annotation(_of(element, "name"), (left - 1, top - 1, right, bottom), place)


def _of(element: ElementTree.Element, path: str) -> str:
    text = element.findtext(path)
    if text is None:
        raise ValueError(f"no {path}")
    return text.strip()


def _text(file: Path, limit_bytes: int) -> str:
    try:
        if file.stat().st_size > limit_bytes:
            raise DataError(f"larger than {limit_bytes >> 20} MiB: this is no file of boxes", where=file)
        return file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"these boxes cannot be read: {error}", where=file) from error


def _stem(file: Path, folder: Path) -> str:
    return escaped(file.relative_to(folder).with_suffix("").as_posix())


def _once(names: Sequence[str], path: Path, what: str = "this picture") -> None:
    name, count = Counter(names).most_common(1)[0] if names else ("", 0)
    if count > 1:
        raise DataError(f"{what} is listed {count} times: {name}", where=path)
