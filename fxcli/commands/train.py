"""`fx train`: a recipe → a run with a model."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from fxcli.commands import completion
from fxcli.commands.options import Debug, Json, Out, Quiet, Sets
from fxcli.commands.prepare import is_folder
from fxcli.commands.study import study
from fxcli.console import console
from fxcli.errors import UsageError
from fxcli.run.directory import Run, held
from fxcli.run.launch import processes

if TYPE_CHECKING:
    from fxcli.recipe.load import Loaded
    from fxcli.recipe.tasks import TrainRecipe


def train(
    recipe: Annotated[
        str | None,
        typer.Argument(
            metavar="RECIPE|FOLDER",
            help="A YAML file, the name of a recipe of fx, or pictures.",
            autocompletion=completion.trainings,
        ),
    ] = None,
    set_: Sets = None,
    out: Out = None,
    folds: Annotated[
        int | None,
        typer.Option("--folds", metavar="K", min=2, help="Train K times, each time holding other groups out."),
    ] = None,
    seeds: Annotated[
        int | None, typer.Option("--seeds", metavar="N", min=2, help="Train N times, with other seeds.")
    ] = None,
    resume: Annotated[
        Path | None,
        typer.Option(
            "--resume", metavar="RUN", help="Go on with a run that was stopped.", autocompletion=completion.stopped
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Two steps of each phase: time and memory. Of a study: what is done.")
    ] = False,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Trains what a recipe says and writes a run: runs/NAME-TIME-ID/ (or --out DIR).

    A folder of pictures is prepared, if it is not yet, and trained on by a recipe that is made for it (fx recipe new),
    kept beside its manifest as train.yaml: change it, and the same command takes it as it is.

    Ctrl-C saves and exits 130; --resume goes on from there, bit for bit.

    With --folds, what each training says of the pictures that it held out (out-of-fold, OOF) is kept in
    predictions/oof.csv, and the models of all are one file, whose answer is their mean.

    A study (recipes × data × seeds) is worked off seed by seed: each training is measured, out of fold where it has
    folds, on the test part where it has none or that is asked for, and its answers are kept in the study's results.
    The same command goes on where it was stopped, and shows the table.

    Example: fx train recipes/quickstart.yaml

    Example: fx train recipes/final.yaml --set model.backbone=efficientnet_lite0 --dry-run

    Example: fx train recipes/final.yaml --folds 5

    Example: fx train my_pictures/ (my_pictures/CLASS/*.jpg)

    Example: fx train recipes/experiments.yaml --set 'seeds=[0]'

    Example: fx train --resume runs/final-20260101T120000Z-1a2b
    """
    console.configure(json=json, quiet=quiet, debug=debug)
    if resume is not None:
        if recipe or set_ or out or dry_run or folds or seeds:
            raise UsageError("--resume goes on as the run was started: it takes nothing else")
        _train(None, None, resume)
    elif recipe is None:
        raise UsageError("no recipe", hint="fx train RECIPE, or fx train --resume RUN; fx recipe list shows recipes")
    else:
        # A recipe with a mistake is told of before torch is imported, which takes seconds.
        if (Path(recipe) / "run.json").is_file():
            raise UsageError(f"{recipe} is a run", hint=f"fx train --resume {shlex.quote(recipe)} goes on with it")
        if is_folder(recipe, "fx train"):
            if processes() > 1:
                raise UsageError(
                    "torchrun is for a recipe",
                    hint=f"fx recipe new prepared/NAME, after fx prepare {shlex.quote(recipe)}",
                )
            from fxcli.commands.drafting import recipe_of, require_own

            file = recipe_of(Path(recipe))
            loaded = _load(str(file), set_ or [], folds=folds, seeds=seeds)
            require_own(loaded.recipe, file)
        else:
            loaded = _load(recipe, set_ or [], folds=folds, seeds=seeds)
        if processes() > 1 and (dry_run or loaded.recipe.task == "study"):
            raise UsageError("torchrun is for one training: a study and --dry-run take a single process")
        if loaded.recipe.task == "study":
            study(loaded, out, dry_run=dry_run)
            return
        if dry_run and out is not None:
            raise UsageError("--dry-run makes no run, so --out means nothing with it")
        chosen = cast("TrainRecipe", loaded.recipe)
        if dry_run:
            _dry_run(chosen)
        else:
            _train(chosen, out, None)


def _train(recipe: TrainRecipe | None, out: Path | None, resume: Path | None) -> None:
    """Trains in this process, or in all that torchrun started: what a recipe says, or the rest of a run."""
    from fxcli.training import job, pictures
    from fxcli.training.world import check, joined

    with joined() as world:
        if not world.is_first:
            console.configure(quiet=True, debug=console.debug)
            job.take_part(Run(Path(world.heard(""))), world, resume=resume is not None)
            return
        if recipe is not None:
            check(recipe, world)
            manifest = pictures.manifest_of(recipe)
            run = job.create(recipe, manifest, out)
        else:
            run, recipe, manifest = job.reopen(Path(str(resume)))
            check(recipe, world)
        world.heard(str(run.path))
        with held(run):
            figures = job.execute(run, recipe, manifest, resume=resume is not None, world=world)
    _report(run, recipe, figures, has_test=bool(manifest.part("test")))


def _load(name: str, sets: list[str], *, folds: int | None, seeds: int | None) -> Loaded:
    from fxcli.recipe.load import load

    loaded = load(name, sets)
    task = loaded.recipe.task
    if task == "prepare":
        raise UsageError(f"{name} prepares pictures", hint=f"fx prepare {shlex.quote(name)}")
    counts = {key: count for key, count in (("folds", folds), ("seeds", seeds)) if count is not None}
    if not counts:
        return loaded
    if task != "classify":
        hint = "a study has seeds of its own, and folds as ensemble.folds of a run" if task == "study" else None
        raise UsageError(f"--{next(iter(counts))} is for task: classify, and {name} is a {task}", hint=hint)
    return load(name, [*sets, *(f"ensemble.{key}={count}" for key, count in counts.items())])


def _report(run: Run, recipe: TrainRecipe, figures: dict[str, Any], *, has_test: bool) -> None:
    is_pretrain = recipe.task == "pretrain"
    several = recipe.task == "classify" and recipe.ensemble.folds > 1
    what = "training" if is_pretrain else "out-of-fold" if several else "validation"
    if console.json:
        console.record({"run": str(run.path), "model": str(run.model_file), what: figures})
        return
    path = shlex.quote(str(run.path))
    scalars = {key: value for key, value in figures.items() if isinstance(value, int | float)}
    if scalars:
        title = f"{what} part"
        if not is_pretrain:
            title += f" (with intervals: fx evaluate {path} --split {'oof' if several else 'val'})"
        console.table(list(scalars), [[f"{value:.4g}" for value in scalars.values()]], title=title)
    console.note(f"model {run.model_file}")
    if is_pretrain:
        started = f"fx train RECIPE --set model.backbone={recipe.model.backbone} --set model.init={path}"
        console.note(f"next: {started}   or   fx predict FOLDER --model {path} --features DIR")
        return
    pictures = "--cam" if recipe.task == "classify" else "--boxes"
    measure = f"fx evaluate {path}   or   " if has_test else ""
    console.note(f"next: {measure}fx predict FOLDER --model {path} {pictures} out/")


def _dry_run(recipe: TrainRecipe) -> None:
    from fxcli.training import dry, pictures

    if recipe.task == "pretrain":
        raise UsageError("--dry-run is for task: classify or detect")
    rows, trainings = dry.estimate(recipe, pictures.manifest_of(recipe))
    if console.json:
        console.record({"phases": rows, "trainings": trainings})
        return
    shown = [[row["phase"], row["epochs"], f"{row['images_per_s']:.1f}", f"{row['minutes']:.1f}"] for row in rows]
    console.table(["phase", "epochs", "images/s", "minutes"], shown, title="estimate from two steps a phase")
    minutes = sum(row["minutes"] for row in rows)
    each = "" if trainings == 1 else f", {trainings} trainings of {minutes:.0f} minutes"
    console.note(f"{minutes * trainings:.0f} minutes in all, without validation{each}")
    if rows[-1]["memory_mib"] is not None:
        rest = "without the processes that decode, and pictures kept decoded (data.cache)"
        console.note(f"peak memory {rows[-1]['memory_mib']:.0f} MiB, {rest}")
