"""Makes a prepared folder: cleaned pictures, manifest, audit and fingerprint. Called by `fx prepare`.

Written beside its final name and renamed at the end: a prepared folder is complete or not there.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fxcli import __version__
from fxcli.console import console
from fxcli.data import audit, audit_page, box_check, oddities, people, phantom, scan, split, tree
from fxcli.data.annotations import Annotated, Annotation, Source, read_annotations
from fxcli.data.audit import Audit
from fxcli.data.box_check import Gathered, Matched
from fxcli.data.boxes import write_boxes
from fxcli.data.convert import Item, Made, convert, workers
from fxcli.data.drafting import RECIPE
from fxcli.data.manifest import Row, counts, write_manifest
from fxcli.data.names import no_formula
from fxcli.data.paths import PathStyle
from fxcli.data.preprocess import Clean
from fxcli.data.radiograph import Radiograph
from fxcli.data.read import read
from fxcli.data.views import View
from fxcli.errors import DataError
from fxcli.recipe.preparation import Columns, PrepareRecipe
from fxcli.run import ledger
from fxcli.run.files import replace, saying, sha256_of, write_json
from fxcli.run.key import hashed
from fxcli.run.making import making, place_of
from fxcli.run.provenance import now

PHANTOM = "phantom"
PREPARED = Path("prepared")

_MOST_TOLD = 20
# What a box on a phantom is of, whatever its type.
_FRACTURE = "fracture"


@dataclass(frozen=True)
class Prepared:
    """What was made.

    Attributes:
        folder: The prepared folder.
        rows: Of its manifest.
        unreadable: path and reason of each picture that could not be used.
        audit: What was found among the pictures.
        warnings: path and reason of pictures that are used all the same.
        boxes: On the pictures; None if no boxes were asked for.
    """

    folder: Path
    rows: list[Row]
    unreadable: list[dict[str, str]]
    audit: Audit
    warnings: list[dict[str, str]]
    boxes: Gathered | None = None

    @property
    def manifest(self) -> Path:
        """The manifest's file."""
        return self.folder / "manifest.csv"


def prepare(
    recipe: PrepareRecipe, folder: Path, *, overwrite: bool = False, paths: PathStyle = PathStyle.RELATIVE
) -> Prepared:
    """Prepares the pictures of a recipe.

    Args:
        recipe: What to do.
        folder: The prepared folder to make.
        overwrite: Whether an existing one is replaced.
        paths: How the source's paths are shown: RELATIVE to the source, or HASHED.

    Raises:
        DataError: The folder is in use; the source is absent, empty, or does not fit the recipe; no picture is
            readable.
        RunError: Another process is preparing this folder.
    """
    # Of a link what it leads to is replaced, not the link.
    target = Path(os.path.realpath(folder))
    _check_target(recipe, folder, overwrite)
    unreadable: list[dict[str, str]] = []
    boxes, items = _phantoms(recipe) if recipe.data.source == PHANTOM else _files(recipe, unreadable, paths)
    if items:  # else the error to come tells why there is none
        split.policy_of(recipe.split, [item.label for item in items], [item.split for item in items])
    with saying(folder), making(target) as part:
        _check_target(recipe, folder, overwrite)  # another process may have made it meanwhile
        # Phantoms are drawn in known groups, and views of one patient would be all that is found.
        is_searched = recipe.audit.search and recipe.data.source != PHANTOM
        made = convert(items, recipe, part, unreadable, searched=is_searched)
        gathered = _gathered(made, boxes, recipe) if boxes else None
        found = _audit(made, recipe, gathered)
        rows = _rows(made, found, part)
        if gathered:
            kept = [each for index, each in enumerate(gathered.boxes) if index not in found.dropped]
            write_boxes(part, rows, kept, gathered.classes)
        write_manifest(part / "manifest.csv", rows)
        write_json(part / "audit.json", found.record())
        audit_page.write(part / "audit.html", recipe.name, found, _views(made))
        fingerprint = _fingerprint(recipe, rows, unreadable, found, made)
        if gathered:
            fingerprint["boxes"] = gathered.record()
        fingerprint["manifest_sha256"] = sha256_of(part / "manifest.csv")
        write_json(part / "fingerprint.json", fingerprint)
        # Looks at a test part are not undone by preparing it again, and a recipe beside it may have been changed.
        for outliving in (target / ledger.NAME, target / RECIPE):
            if outliving.is_file():
                shutil.copyfile(outliving, part / outliving.name)
    return Prepared(folder, rows, unreadable, found, fingerprint["warnings"], gathered)


def _check_target(recipe: PrepareRecipe, folder: Path, overwrite: bool) -> None:
    """Refuses whatever would destroy, or mix up, more than an earlier prepared folder; and what cannot be replaced."""
    if os.path.ismount(os.path.realpath(folder)):
        raise DataError(
            "this folder is a mount point, which cannot be replaced", where=folder, hint="--out names a folder below it"
        )
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        if not overwrite:
            raise DataError("this folder exists", where=folder, hint="--overwrite replaces it; --out names another")
        if not _is_prepared(folder):
            raise DataError(
                "this is no prepared folder, and --overwrite replaces no other", where=folder, hint="--out names one"
            )
    if recipe.data.source is None:
        raise DataError("the recipe names no source", hint="name it: --set data.source=FOLDER")
    source, target = Path(recipe.data.source).resolve(), folder.resolve()
    within = any(source.is_relative_to(its) for its in (target, place_of(target)))
    if recipe.data.source != PHANTOM and (within or target.is_relative_to(source)):
        raise DataError(
            "the source and the prepared folder lie within each other",
            where=folder,
            hint="--out names a folder elsewhere",
        )


def _is_prepared(folder: Path) -> bool:
    """Whether it is such a folder; a run has copies of its lists, too."""
    has_lists = all((folder / name).is_file() for name in ("manifest.csv", "fingerprint.json"))
    return has_lists and (folder / "pictures").is_dir() and not (folder / "run.json").exists()


def _files(
    recipe: PrepareRecipe, unreadable: list[dict[str, str]], paths: PathStyle
) -> tuple[Matched | None, list[Item]]:
    """The pictures of a source, and what is known of boxes on them."""
    root, boxes = Path(str(recipe.data.source)), None
    labelled = recipe.data.labels == "given"
    found = scan.source(root, recipe.data.columns, labelled=labelled and not recipe.boxes.label)
    if recipe.boxes.source:
        names = [picture.name for picture in found]
        wanted, annotations = recipe.boxes, read_annotations(Path(recipe.boxes.source))
        boxes = box_check.match(annotations, wanted.classes, names, wanted.unlisted)
        if boxes.unused:
            risk = "; one called otherwise counts as one without a box" if wanted.unlisted == "negative" else ""
            console.warn(f"boxes of {boxes.unused} pictures are not used: no picture here has their path or name{risk}")
    if boxes and recipe.boxes.label:
        found = [dataclasses.replace(picture, folder=box_check.label(boxes, picture.name)) for picture in found]
    label_of = scan.labels(found, recipe.data.classes, root) if labelled else {"": ""}
    items = []
    for picture in found:
        name = hashed(os.path.abspath(picture.path)) if paths is PathStyle.HASHED else picture.name
        if reason := tree.unusable(picture.path):
            unreadable.append({"path": name, "reason": reason})
            continue
        item = Item(
            name=name,
            label=label_of[picture.folder],
            split=picture.split,
            patient=picture.patient,
            digest=functools.partial(sha256_of, picture.path),
            load=functools.partial(read, picture.path),
            group=picture.group,
            source=picture.name,
            extra=picture.extra,
        )
        items.append(item)
    return boxes, items


def _phantoms(recipe: PrepareRecipe) -> tuple[Matched, list[Item]]:
    """The drawn pictures, each with a box around its fracture."""
    relabelled = recipe.data.labels == "none" or recipe.data.classes
    if relabelled or recipe.data.columns != Columns() or recipe.boxes.source:
        what = "data.labels, data.classes, data.columns and boxes do not go with it"
        raise DataError(f"the phantom has its own classes: {what}")
    items, known, size_px = [], dict[str, Annotated](), recipe.data.prepared_px
    for case in phantom.plan(seed=recipe.seed):
        digest = hashlib.sha256(repr(case).encode()).hexdigest
        load = functools.partial(_drawn, case, size_px)
        items.append(Item(f"{case.name}.png", case.label, case.split, case.group, digest, load))
        drawn = Annotation(_FRACTURE, phantom.box(case, size_px), f": {case.name}")
        known[items[-1].name] = Annotated((drawn,), (size_px, size_px))
    source = Source(Path(PHANTOM), known, (_FRACTURE,), has_endings=True)
    return box_check.match(source, {}, list(known)), items


def _drawn(case: phantom.PhantomCase, size_px: int) -> Radiograph:
    return Radiograph(phantom.draw(case, size_px), {"phantom": True})


def _gathered(made: Sequence[Made], boxes: Matched, recipe: PrepareRecipe) -> Gathered:
    """The boxes on pictures; says what is wrong with them, and refuses them if the recipe does.

    What is kept tells hashed names of pictures; an error tells whoever prepares them which files to mend.
    """
    names = [each.item.source or each.item.name for each in made]
    sizes = [(each.width_px, each.height_px) for each in made]
    pictures = list(zip(names, sizes, (each.orientation for each in made), strict=True))
    shown = {each.item.source: each.item.name for each in made if each.item.source != each.item.name}
    found = box_check.gather(boxes, pictures, shown if recipe.boxes.bad == "clip" else None)
    if found.wrong and recipe.boxes.bad == "refuse":
        lines = [*found.wrong[:_MOST_TOLD], *(["…"] if len(found.wrong) > _MOST_TOLD else [])]
        what = "\n  ".join([f"{len(found.wrong)} boxes cannot be used as they are", *lines])
        raise DataError(what, where=boxes.source.file, hint="mend them, or cut or leave them out: --set boxes.bad=clip")
    if found.wrong:
        console.warn(f"{len(found.wrong)} boxes were cut or left out; fingerprint.json lists them")
    if found.without_box:
        console.warn(f"no box is of the class {', '.join(found.without_box)}; boxes.classes says which are wanted")
    return found


def _audit(made: Sequence[Made], recipe: PrepareRecipe, boxes: Gathered | None) -> Audit:
    """Looks for pictures that belong together, divides into splits by them, and says which ones are left out."""
    items = [picture.item for picture in made]
    names, labels = ([getattr(item, key) for item in items] for key in ("name", "label"))
    digests = [picture.digest for picture in made]
    views = _views(made)
    pairs = audit.find_pairs([item.source or item.name for item in items], digests, views, workers=workers(recipe))
    patients, joined = _patients(made)
    studies, listed = [picture.study for picture in made], [item.group or "" for item in items]
    if doubts := people.doubts(patients, listed, studies):
        console.warn(doubts)
    together = [*((pair.a, pair.b) for pair in pairs), *joined, *people.same(studies), *people.same(listed)]
    groups = split.groups([patient or None for patient in patients], digests, together)
    given = [item.split for item in items]
    splits = split.assign(recipe.split, recipe.seed, labels, groups, given)
    if "test" not in splits and split.policy_of(recipe.split, labels, given) != "train":
        console.warn("the source names no test part, and none was drawn; split.policy=grouped draws one")
    sizes = [picture.width_px * picture.height_px for picture in made]
    odd = oddities.find(views, [picture.colour_frac for picture in made], sizes)
    # A larger copy of which no boxes are known must not take them away.
    known = [0 if each is None else 1 + bool(each) for each in boxes.boxes] if boxes else [0] * len(made)
    ranks = list(zip(known, sizes, strict=True))
    return audit.conclude(recipe.audit, names, labels, splits, pairs, groups, ranks, digests, odd)


def _patients(made: Sequence[Made]) -> tuple[list[str], list[tuple[int, int]]]:
    return people.patients([picture.item.patient for picture in made], [picture.patient for picture in made])


def _views(made: Sequence[Made]) -> list[View]:
    return [picture.view for picture in made if picture.view is not None]


def _rows(made: Sequence[Made], found: Audit, part: Path) -> list[Row]:
    """The manifest's rows; puts each picture where its row says, and takes away those that are left out."""
    rows = []
    patients = people.numbered("p", _patients(made)[0])
    studies = people.numbered("s", [picture.study for picture in made])
    for index, picture in enumerate(made):
        if index in found.dropped:
            picture.file.unlink()
            continue
        item, part_name = picture.item, found.splits[index]
        path = "/".join(filter(None, ("pictures", part_name, item.label, picture.file.name)))
        (part / path).parent.mkdir(parents=True, exist_ok=True)
        replace(picture.file, part / path)
        row = Row(
            path=path,
            label=item.label,
            split=part_name,
            group=found.groups[index],
            patient=patients[index],
            source=no_formula(item.name),
            width_px=picture.width_px,
            height_px=picture.height_px,
            sha256=picture.digest,
            leaked=("yes" if index in found.leaked else "no") if part_name == "test" else "",
            extra=({"study": studies[index]} if studies[index] else {}) | item.extra,
        )
        rows.append(row)
    return rows


def _fingerprint(
    recipe: PrepareRecipe, rows: Sequence[Row], unreadable: Sequence[dict[str, str]], found: Audit, made: Sequence[Made]
) -> dict[str, Any]:
    digests = [row.sha256 for row in rows]
    return {
        "name": recipe.name,
        "created": now(),
        "fx_version": __version__,
        "source": recipe.data.source,
        "licence": recipe.data.licence,
        "phantom": any(picture.is_phantom for picture in made),
        "clean": asdict(Clean(recipe.data.prepared_px, recipe.data.window)),
        "classes": sorted({row.label for row in rows} - {""}),
        "counts": counts(rows),
        "groups": len({row.group for row in rows}),
        "byte_equal_copies": len(digests) - len(set(digests)),
        "audit": found.figures(),
        "width_px": _quartiles([row.width_px for row in rows]),
        "height_px": _quartiles([row.height_px for row in rows]),
        "unreadable": list(unreadable),
        "warnings": [{"path": each.item.name, "reason": caution} for each in made for caution in each.cautions],
        "recipe": recipe.model_dump(mode="json"),
    }


def _quartiles(values: Sequence[int]) -> dict[str, float]:
    names = ("min", "q25", "median", "q75", "max")
    return dict(zip(names, (float(x) for x in np.quantile(values, (0, 0.25, 0.5, 0.75, 1))), strict=True))
