"""`fx recipe`: list, show, new, check, diff and schema."""

from __future__ import annotations

import json as json_module
from pathlib import Path
from typing import Annotated

import typer

from fxcli.commands import completion
from fxcli.commands.options import Debug, Json, Quiet, Sets
from fxcli.console import console
from fxcli.errors import FxError, RecipeError, UsageError

app = typer.Typer(help="List, show, check and compare recipes.", no_args_is_help=True)

Recipe = Annotated[
    str,
    typer.Argument(
        metavar="RECIPE", help="A YAML file, or the name of a recipe of fx.", autocompletion=completion.recipes
    ),
]


@app.command("list")
def list_(json: Json = False, quiet: Quiet = False, debug: Debug = False) -> None:
    """Lists the recipes that come with fx.

    Example: fx recipe list
    """
    console.configure(json=json, quiet=quiet, debug=debug)
    from fxcli.recipe import load as loading

    rows = [(name, *loading.about(name)) for name in loading.shipped()]
    if json:
        for name, task, about in rows:
            console.record({"name": name, "task": task, "about": about})
    else:
        console.table(["recipe", "task", "about"], rows)


@app.command()
def show(
    recipe: Recipe,
    set_: Sets = None,
    sources: Annotated[bool, typer.Option("--sources", help="Say where each value comes from.")] = False,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Shows a recipe as it will run: extends, --set and phases resolved, with every default.

    Example: fx recipe show final --sources
    """
    console.configure(json=json, quiet=quiet, debug=debug)
    from fxcli.recipe import load as loading
    from fxcli.recipe.source import flatten

    loaded = loading.load(recipe, set_ or ())
    values = loaded.recipe.model_dump(mode="json")
    rows = [
        {
            "key": ".".join(key),
            "value": value,
            "from": loaded.origins[key].place if key in loaded.origins else "default",
        }
        for key, value in flatten(values)
    ]
    if sources and json:
        for row in rows:
            console.record(row)
    elif sources:
        console.table(["key", "value", "from"], [(row["key"], _text(row["value"]), row["from"]) for row in rows])
    elif json:
        console.record(values)
    else:
        console.data(loading.resolved_yaml(loaded.recipe).rstrip())


def _text(value: object) -> str:
    return json_module.dumps(value, ensure_ascii=False)


@app.command()
def new(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="What fx prepare wrote: prepared/NAME.")],
    estimate: Annotated[
        bool, typer.Option("--estimate/--no-estimate", help="Time two steps of each phase on this machine.")
    ] = True,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Prints a recipe for prepared pictures, with its reasons: their number, sizes and classes decide.

    With --json: `yaml`, that text; `recipe`, as it will run; `minutes`, or null without an estimate.

    Example: fx recipe new prepared/my_pictures > mine.yaml
    """
    console.configure(json=json, quiet=quiet, debug=debug)
    from fxcli.commands.drafting import drafted, minutes_of, read, with_minutes

    text, minutes = drafted(folder), None
    drafted_recipe = read(text)
    if estimate:
        minutes = minutes_of(drafted_recipe)
        text = with_minutes(text, minutes)
    if json:
        console.record({"yaml": text, "recipe": drafted_recipe.model_dump(mode="json"), "minutes": minutes})
    else:
        console.data(text.rstrip())


@app.command()
def check(
    recipes: Annotated[
        list[str], typer.Argument(metavar="RECIPE…", help="Files or names.", autocompletion=completion.recipes)
    ],
    set_: Sets = None,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Checks recipes: keys, types, ranges, names of backbones, weights and stages. Looks at no data.

    Example: fx recipe check my.yaml --set optim.lr=1e-4
    """
    console.configure(json=json, quiet=quiet, debug=debug)
    from fxcli.recipe import load as loading

    failed: list[FxError] = []
    for name in recipes:
        try:
            task = loading.load(name, set_ or ()).recipe.task
        except FxError as error:
            failed.append(error)
            if json:
                problems = error.problems if isinstance(error, RecipeError) else [str(error)]
                console.record({"recipe": name, "valid": False, "problems": problems})
            continue
        if json:
            console.record({"recipe": name, "valid": True, "task": task})
        else:
            console.data(f"{name}: valid ({task})")
    for earlier in failed[:-1]:
        console.error(earlier)
    if failed:
        raise failed[-1]


@app.command()
def diff(
    left: Recipe,
    right: Annotated[
        str,
        typer.Argument(metavar="OTHER", help="The recipe to compare with.", autocompletion=completion.recipes),
    ],
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Compares two recipes as they will run, key by key.

    Example: fx recipe diff regularize final
    """
    console.configure(json=json, quiet=quiet, debug=debug)
    from fxcli.recipe import load as loading

    rows = loading.difference(loading.load(left).recipe, loading.load(right).recipe)
    if json:
        for key, sides in rows:
            console.record({"key": ".".join(key), **sides})
    elif rows:
        cells = [
            (".".join(key), *(_text(sides[side]) if side in sides else "—" for side in ("left", "right")))
            for key, sides in rows
        ]
        console.table(["key", left, right], cells)
    else:
        console.note("no difference")


@app.command()
def schema(
    task: Annotated[
        str, typer.Argument(help="Of the recipe: classify, detect, prepare, pretrain or study.")
    ] = "classify",
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Prints the JSON Schema of a recipe file, for editors; with --json on one line.

    Example: fx recipe schema classify > fx.schema.json
    """
    console.configure(json=json, quiet=quiet, debug=debug)
    from fxcli.recipe.tasks import TASKS, json_schema

    if task not in TASKS:
        raise UsageError(f"no task '{task}'", hint=f"tasks: {', '.join(TASKS)}")
    if json:
        console.record(json_schema(task))
    else:
        console.data(json_module.dumps(json_schema(task), indent=2))
