"""The pictures that a recipe learns from: found or drawn, warned of, hashed, shortened to a share.

What a finished run learnt from is in inference.measured.
"""

from __future__ import annotations

from pathlib import Path
from typing import cast

from fxcli.console import console
from fxcli.data import split
from fxcli.data.cache import contents
from fxcli.data.manifest import LEARNT, Manifest, read_manifest
from fxcli.data.prepare import PHANTOM, PREPARED, prepare
from fxcli.errors import DataError
from fxcli.inference import measured
from fxcli.model.init import Origin
from fxcli.recipe.load import load
from fxcli.recipe.preparation import PrepareRecipe
from fxcli.recipe.schema import ClassifyRecipe, PretrainRecipe
from fxcli.recipe.tasks import TrainRecipe
from fxcli.run.checkpoint import read_header
from fxcli.run.directory import find_model
from fxcli.training import session
from fxcli.zoo.plugins import load_zoo


def manifest_of(recipe: TrainRecipe) -> Manifest:
    """The pictures that a recipe names; phantoms are drawn where they are not there yet.

    Raises:
        DataError: The manifest is not one, or the folder of the phantoms holds other pictures.
    """
    if recipe.data.source != PHANTOM:
        manifest = read_manifest(Path(str(recipe.data.manifest)))
        warn_of_leaks(manifest)
        return manifest
    folder = PREPARED / PHANTOM
    drawing = cast("PrepareRecipe", load(PHANTOM).recipe)
    if not folder.exists():
        console.note(f"drawing the phantom pictures into {folder}")
        prepare(drawing, folder)
    manifest = read_manifest(folder / "manifest.csv")
    if not manifest.is_phantom or manifest.fingerprint().get("recipe") != drawing.model_dump(mode="json"):
        raise DataError(
            "this folder holds other pictures than the phantoms of this fx",
            where=folder,
            hint="fx prepare phantom --overwrite, or train in another folder",
        )
    return manifest


def warn_of_leaks(manifest: Manifest) -> None:
    """Says how many pictures of the parts that measure share a group with what is learnt from."""
    for part, others, what in (
        ("test", LEARNT, "figures on them will flatter"),
        ("val", ("train",), "figures on them, and the epoch that they choose, will flatter"),
        ("calibration", ("train", "val"), "what is fitted to them will be too sure of itself"),
    ):
        if straddling := len(manifest.shared(part, others)):
            console.warn(
                f"{straddling} of {len(manifest.part(part))} {part} pictures share a group with a picture that is "
                f"learnt from; {what} (fx prepare with audit.leaks=drop_train, or a split that fx draws)"
            )


def warn_of_size(recipe: TrainRecipe, manifest: Manifest) -> None:
    """Says whether pictures were prepared smaller than the network sees them, which adds no detail."""
    size_px = session.size_px(recipe, load_zoo().backbone(recipe.model.backbone))
    if size_px > (prepared_px := manifest.clean().prepared_px):
        console.warn(
            f"the pictures were prepared {prepared_px} px a side, and are enlarged to {size_px} px; "
            f"for more detail: fx prepare with prepared_px={size_px}"
        )


def warn_of_start(recipe: TrainRecipe, manifest: Manifest, origin: Origin) -> None:
    """Says how many pictures that are to measure were learnt from by what is started from.

    Of a pretraining, which knows no labels, that matters of test pictures alone: parts that are held out are of a pool
    that it may well have seen.
    """
    if not origin.file:
        return
    _, before = find_model(origin.file)
    is_in_folds = isinstance(recipe, ClassifyRecipe) and recipe.ensemble.folds > 1
    is_blind = read_header(Path(origin.file)).get("task") == "pretrain"
    held_out = {} if is_blind else {"held-out": LEARNT} if is_in_folds else {"validation": ("val",)}
    how = "without their labels" if is_blind else "with their labels"
    for what, parts in (held_out | {"test": ("test",)}).items():
        rows = [row for row in manifest.rows if row.split in parts]
        if known := measured.learnt_from(before, rows):
            console.warn(
                f"{known} of {len(rows)} {what} pictures were learnt from, {how}, by what model.init starts from: "
                "figures on them will flatter"
            )


def warn_of_pool(recipe: PretrainRecipe, manifest: Manifest) -> None:
    """Says whether a pretraining is to learn from pictures that are to test."""
    if "test" in recipe.data.splits and (count := len(manifest.part("test"))):
        console.warn(
            f"data.splits: the {count} test pictures are learnt from, without their labels: figures on them, of "
            "whatever starts from this pretraining, will flatter; a test part of other pictures is free of that"
        )


def contents_of(recipe: TrainRecipe, manifest: Manifest) -> str:
    """A hash of the files that are learnt from or chosen by, which must be as they were when a run goes on."""
    parts = {*LEARNT, *(recipe.data.splits if isinstance(recipe, PretrainRecipe) else ())}
    return contents([manifest.path_of(row) for row in manifest.rows if row.split in parts])


def learnt_from(recipe: TrainRecipe, manifest: Manifest, *, told: bool = False) -> Manifest:
    """The pictures with those that are learnt from as the training part, by `split.learnt`; a line may tell of it."""
    splits = recipe.data.splits if isinstance(recipe, PretrainRecipe) else ("train",)
    taken = split.learnt(manifest, recipe.data.train_frac, recipe.seed, splits)
    if told and taken is not manifest:
        whole = sum(row.split in splits for row in manifest.rows)
        why = [f"data.splits: {', '.join(splits)}"] if set(splits) != {"train"} else []
        why += ["data.train_frac"] if recipe.data.train_frac < 1 else []
        console.note(f"learns from {len(taken.part('train'))} of {whole} pictures for training ({'; '.join(why)})")
    return taken
