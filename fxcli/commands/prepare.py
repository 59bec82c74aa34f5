"""`fx prepare`: raw pictures → a prepared folder."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from fxcli.commands import completion
from fxcli.commands.options import Debug, Json, Out, Parquet, Paths, Quiet, Sets
from fxcli.console import console
from fxcli.data.names import plain_name
from fxcli.data.parquet import SUFFIX, beside, require
from fxcli.data.paths import PathStyle
from fxcli.errors import SomeRowsFailed, UsageError

if TYPE_CHECKING:
    from fxcli.recipe.load import Loaded
    from fxcli.recipe.preparation import PrepareRecipe


def prepare(
    recipe: Annotated[
        str,
        typer.Argument(
            metavar="RECIPE|FOLDER|TABLE",
            help="A recipe, a folder of class folders, a CSV, or Parquet.",
            autocompletion=completion.preparations,
        ),
    ],
    set_: Sets = None,
    out: Out = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the prepared folder.")] = False,
    names: Paths = PathStyle.RELATIVE,
    parquet: Parquet = False,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Cleans pictures, divides them into train, val and test, and lists them in a manifest.

    Writes prepared/NAME/ (or --out DIR): 8-bit grey PNG pictures, manifest.csv, fingerprint.json, and what an audit
    found (audit.json; audit.html shows pairs of equal pictures). Unreadable files are listed with reasons, and the
    exit code is then 9. Pictures of one patient or study of DICOM share a group; the manifest has numbers for them.

    Example: fx prepare recipes/bone_break.yaml --set data.source=bone_break

    Example: fx prepare my_pictures/ (my_pictures/CLASS/*.jpg, or my_pictures/CLASS/Train and Test)

    Example: fx prepare list.csv (columns path, label; optionally patient, group, split; so for list.parquet)

    Example: fx prepare pool/ --set data.labels=none (pictures without labels, to pretrain on)
    """
    console.configure(json=json, quiet=quiet, debug=debug)
    if names is PathStyle.GIVEN:
        raise UsageError("a manifest names pictures within their source: --paths is relative or hashed here")
    if parquet:
        require()
    loaded = load_recipe(recipe, set_ or [])
    from fxcli.data.manifest import counted, counts, kind_of
    from fxcli.data.prepare import PREPARED
    from fxcli.data.prepare import prepare as run
    from fxcli.data.radiograph import Caution, warn_of

    chosen = cast("PrepareRecipe", loaded.recipe)
    made = run(chosen, out or PREPARED / chosen.name, overwrite=overwrite, paths=names)
    if parquet:
        beside(made.manifest, kind_of)
    table = counts(made.rows)
    if json:
        figures = made.audit.figures()
        bad = {"unreadable": made.unreadable, "warnings": made.warnings}
        boxes = made.boxes.record() if made.boxes else None
        console.record({"folder": str(made.folder), "counts": table, "audit": figures, "boxes": boxes, **bad})
    else:
        console.table(*counted(made.rows), title=str(made.folder))
        console.table(["audit", ""], made.audit.table())
        if made.boxes:
            console.note(made.boxes.told())
        console.note(f"the pairs: {made.folder / 'audit.html'}")
        recipe = "RECIPE" if any(table) else "pretrain_simclr"
        console.note(f"train with: fx train {recipe} --set {shlex.quote(f'data.manifest={made.manifest}')}")
    if len(table) == 1 and any(table):
        console.warn(f"there is one class, {next(iter(table))}; if its folder holds class folders, it is the source")
    warn_of(Caution(entry["reason"]) for entry in made.warnings)
    for entry in made.unreadable:
        console.warn(f"{entry['path']}: {entry['reason']}")
    if made.unreadable:
        failed = len(made.unreadable)
        raise SomeRowsFailed(failed, failed + len(made.rows), made.folder / "fingerprint.json")


def is_folder(name: str, command: str) -> bool:
    """Whether what was given in place of a recipe is a folder.

    Raises:
        UsageError: It is both.
    """
    from fxcli.recipe.load import shipped

    if Path(name).is_dir() and name in shipped():
        raise UsageError(
            f"{name} is a folder here, and a recipe of fx",
            hint=f"{command} ./{name} for the folder, {command} {shipped()[name]} for the recipe",
        )
    return Path(name).is_dir()


def load_recipe(recipe: str, sets: list[str]) -> Loaded:
    """The recipe that a name means, or one of defaults for a folder or a table."""
    from fxcli.recipe.load import load, load_default

    path = Path(recipe)
    if is_folder(recipe, "fx prepare") or path.suffix.lower() in (".csv", SUFFIX):
        stem = path.resolve().stem if path.is_file() else path.resolve().name
        name = plain_name(stem) or "pictures"
        # A folder called phantom is still a folder.
        source = f"./{path}" if str(path) == "phantom" else str(path)
        quoted = source.replace("'", "''")
        return load_default([f"data.source='{quoted}'", *sets], name=name)
    return load(recipe, sets, expect="prepare")
