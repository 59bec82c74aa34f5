"""What `fx recipe new FOLDER` and `fx train FOLDER` share: from a folder of pictures to a recipe for it."""

from __future__ import annotations

import os
import shlex
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, cast

from fxcli.console import console
from fxcli.errors import DataError

if TYPE_CHECKING:
    from fxcli.data.drafting import Means
    from fxcli.recipe.preparation import PrepareRecipe
    from fxcli.recipe.schema import ClassifyRecipe
    from fxcli.recipe.tasks import Recipe

MANIFEST = "manifest.csv"


def drafted(folder: Path) -> str:
    """The text of a recipe for what fx prepare wrote into a folder.

    Raises:
        DataError: It is none of those, or there is nothing to learn from.
    """
    from fxcli.data.drafting import draft
    from fxcli.data.manifest import read_manifest
    from fxcli.data.names import plain_name

    file = folder / MANIFEST
    if not file.is_file():
        quoted = shlex.quote(str(folder))
        hint = f"fx prepare {quoted} makes one; or all in one go: fx train {quoted}"
        raise DataError("this folder has no manifest.csv, so it was not prepared", where=folder, hint=hint)
    return draft(plain_name(folder.resolve().name) or "pictures", read_manifest(file), file.as_posix(), _means())


def read(text: str) -> ClassifyRecipe:
    """The recipe that a drafted text is."""
    from fxcli.recipe.load import load

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "drafted.yaml"
        file.write_text(text, encoding="utf-8")
        return cast("ClassifyRecipe", load(file).recipe)


def minutes_of(recipe: ClassifyRecipe) -> float:
    """The time that it takes on this machine, without validation, by two steps of each phase."""
    from fxcli.training import dry, pictures

    rows, trainings = dry.estimate(recipe, pictures.manifest_of(recipe))
    return float(sum(row["minutes"] for row in rows) * trainings)


def with_minutes(text: str, minutes: float) -> str:
    """A drafted text that also tells its time."""
    head, _, rest = text.partition("\n")
    told = f"# about {max(1, round(minutes))} minutes on this machine, without validation, by two steps of each phase"
    return f"{head}\n{told}\n{rest}"


def recipe_of(folder: Path) -> Path:
    """The recipe beside the manifest of a folder of pictures: found, or made, as the manifest is.

    Raises:
        DataError: As preparing raises it; or other pictures were prepared under this name.
    """
    prepared = folder if (folder / MANIFEST).is_file() else _prepared(folder)
    from fxcli.data.drafting import RECIPE

    file = prepared / RECIPE
    if file.is_file():
        console.note(f"recipe {file}, as it stands there")
        return file
    from fxcli.run.files import write_text

    write_text(file, drafted(prepared))
    console.note(f"recipe {file}: made for these pictures; what you change there stays")
    return file


def require_own(recipe: Recipe, file: Path) -> None:
    """For who named a folder: its recipe names the manifest as it was seen from where the recipe was made.

    Args:
        recipe: As loaded from there.
        file: What `recipe_of` gave.

    Raises:
        DataError: Seen from here, that is not the manifest beside it.
    """
    named, own = getattr(recipe.data, "manifest", None), file.with_name(MANIFEST)
    if named is not None and os.path.realpath(named) != os.path.realpath(own):
        takes_own, as_it_is = shlex.quote(f"data.manifest={own}"), shlex.quote(str(file))
        raise DataError(
            f"its data.manifest, {named}, is not the one beside it, as seen from the current folder",
            where=file,
            hint=f"--set {takes_own} takes the one beside it, fx train {as_it_is} the one that it names",
        )


def _prepared(folder: Path) -> Path:
    """The prepared folder of a raw one."""
    from fxcli.commands.prepare import load_recipe
    from fxcli.data.manifest import read_manifest
    from fxcli.data.prepare import PREPARED, prepare

    # A path in so many words: a recipe of fx may be called as the folder is.
    recipe = cast("PrepareRecipe", load_recipe(os.path.join(os.curdir, folder), []).recipe)
    target = PREPARED / recipe.name
    if not target.exists():
        made = prepare(recipe, target)
        for entry in made.unreadable:
            console.warn(f"{entry['path']}: {entry['reason']}")
        return target
    source = read_manifest(target / MANIFEST).fingerprint().get("source")
    if source is None or os.path.realpath(source) != os.path.realpath(folder):
        hint = f"fx prepare {shlex.quote(str(folder))} --out prepared/OTHER, then fx train prepared/OTHER"
        raise DataError("this folder holds what was prepared of other pictures", where=target, hint=hint)
    again = f"fx prepare {shlex.quote(str(folder))} --overwrite"
    console.note(f"pictures {target}, as they were prepared; {again} does it again")
    return target


def _means() -> Means:
    """What a training has at hand here: the backbone of recipes/best, if its weights are here, else the default."""
    import torch

    from fxcli.data.drafting import Means
    from fxcli.model.init import at_hand
    from fxcli.recipe.load import load
    from fxcli.recipe.schema import Model
    from fxcli.zoo.plugins import load_zoo

    has_gpu = torch.cuda.is_available() or torch.backends.mps.is_available()
    best, default = cast("ClassifyRecipe", load("best").recipe).model, Model()
    spec = load_zoo().backbone(best.backbone)
    if (source := spec.weights.get(best.init)) is not None and at_hand(source) is None:
        return Means(spec, best.init, "as in best, and its weights are here", has_gpu)
    return Means(load_zoo().backbone(default.backbone), default.init, "the default", has_gpu)
