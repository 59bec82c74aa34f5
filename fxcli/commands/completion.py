"""What a shell offers for a word that is being typed: names of recipes, runs and backbones. Imports no torch.

Where nothing is returned, shells offer files by themselves. Typer asks, and passes on what begins with the word.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

BACKBONE = "model.backbone="
_PLAIN = re.compile(r"\w[\w.+-]*")


def recipes(incomplete: str) -> list[tuple[str, str]]:
    """Recipes that come with fx, each with what it does; and what lies here and may be given in their place."""
    return _recipes(incomplete, is_wanted=lambda task: True)


def preparations(incomplete: str) -> list[tuple[str, str]]:
    """The same for fx prepare."""
    return _recipes(incomplete, is_wanted=lambda task: task == "prepare")


def trainings(incomplete: str) -> list[tuple[str, str]]:
    """The same for fx train."""
    return _recipes(incomplete, is_wanted=lambda task: task != "prepare")


def _recipes(incomplete: str, is_wanted: Callable[[str], bool]) -> list[tuple[str, str]]:
    from fxcli.recipe.load import about, shipped

    known = {name: about(name) for name in shipped() if name.startswith(incomplete)}
    # Typer would fold a longer line, in the middle of what zsh is told.
    found = [(name, textwrap.shorten(what, 60)) for name, (task, what) in known.items() if is_wanted(task)]
    return [*found, *_files(incomplete)] if found else []


def _files(incomplete: str) -> Iterator[tuple[str, str]]:
    for path in sorted(Path().iterdir()):
        # bash puts a word in as it is: what would have to be quoted is left to its own completion of files.
        if not path.name.startswith(incomplete) or not _PLAIN.fullmatch(path.name):
            continue
        if path.is_dir():
            yield f"{path.name}/", "folder"
        elif path.suffix in (".yaml", ".yml"):
            yield path.name, "recipe"


def models(incomplete: str) -> list[tuple[str, str]]:
    """Runs that are finished, and the recipes that have one here."""
    from fxcli.run.directory import all_runs

    found = [(run.path, str(info.get("recipe"))) for run, info in all_runs() if info["status"] == "finished"]
    recipes = {recipe: f"its last finished run: {path.name}" for path, recipe in found}
    return [*recipes.items(), *((path.as_posix(), recipe) for path, recipe in found)]


def stopped(incomplete: str) -> list[tuple[str, str]]:
    """Runs that can go on."""
    from fxcli.run.directory import all_runs

    return [(run.path.as_posix(), run.status(info)) for run, info in all_runs() if info["status"] != "finished"]


def overrides(incomplete: str) -> list[tuple[str, str]]:
    """Values of --set model.backbone=, in shells that do not end a word at the equals sign, as bash does."""
    from fxcli.zoo.plugins import load_zoo

    if not incomplete.startswith(BACKBONE):
        return []
    return [(f"{BACKBONE}{name}", spec.summary) for name, spec in load_zoo().backbones().items()]
