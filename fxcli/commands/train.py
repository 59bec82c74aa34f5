"""`fx train`: a recipe → a run with a model."""

from __future__ import annotations

import os
import shlex
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from fxcli import __version__
from fxcli.commands.options import Debug, Json, Out, Quiet, Sets
from fxcli.console import console
from fxcli.errors import DataError, Interrupted, RunError, UsageError
from fxcli.run import directory, provenance
from fxcli.run.directory import Lock, Run
from fxcli.run.files import sha256_of, write_text

if TYPE_CHECKING:
    from fxcli.data.manifest import Manifest
    from fxcli.model.hardware import Compute
    from fxcli.recipe.schema import ClassifyRecipe, PrepareRecipe, PretrainRecipe
    from fxcli.zoo.plugins import Zoo

    TrainRecipe = ClassifyRecipe | PretrainRecipe


def train(
    recipe: Annotated[
        str | None, typer.Argument(metavar="RECIPE", help="A YAML file, or the name of a recipe of fx.")
    ] = None,
    set_: Sets = None,
    out: Out = None,
    resume: Annotated[
        Path | None, typer.Option("--resume", metavar="RUN", help="Go on with a run that was stopped.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Two steps of each phase; estimates time and memory.")
    ] = False,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Trains what a recipe says and writes a run: runs/NAME-TIME-ID/ (or --out DIR).

    Ctrl-C saves and exits 130; --resume goes on from there, bit for bit.

    Example: fx train recipes/quickstart.yaml

    Example: fx train recipes/final.yaml --set model.backbone=efficientnet_lite0 --dry-run

    Example: fx train --resume runs/final-20260101T120000Z-1a2b
    """
    console.configure(json=json, quiet=quiet, debug=debug)
    if resume is not None:
        if recipe or set_ or out or dry_run:
            raise UsageError("--resume goes on as the run was started: it takes nothing else")
        run, chosen, manifest = _reopen(resume)
    elif recipe is None:
        raise UsageError("no recipe", hint="fx train RECIPE, or fx train --resume RUN; fx recipe list shows recipes")
    else:
        if dry_run and out is not None:
            raise UsageError("--dry-run makes no run, so --out means nothing with it")
        chosen = _recipe(recipe, set_ or [])
        manifest = _manifest(chosen)
        if straddling := len(manifest.straddling):
            console.warn(
                f"{straddling} of {len(manifest.part('test'))} test pictures share a group with a picture that is "
                "learnt from; figures on them will flatter (fx prepare with audit.leaks=drop_train)"
            )
        if dry_run:
            _dry_run(chosen, manifest)
            return
        run = _create(chosen, manifest, out)
    with Lock(run):
        _run(run, chosen, manifest, resume=resume is not None)


def _recipe(name: str, sets: list[str], *, check_init: bool = True) -> TrainRecipe:
    from fxcli.recipe.load import load

    loaded = load(name, sets, check_init=check_init)
    if loaded.recipe.task == "prepare":
        raise UsageError(f"{name} prepares pictures", hint=f"fx prepare {name}")
    return loaded.recipe


def _manifest(recipe: TrainRecipe) -> Manifest:
    from fxcli.data.manifest import read_manifest
    from fxcli.data.prepare import PHANTOM, PREPARED, prepare
    from fxcli.recipe.load import load

    if recipe.data.source == PHANTOM:
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
    return read_manifest(Path(str(recipe.data.manifest)))


def _create(recipe: TrainRecipe, manifest: Manifest, out: Path | None) -> Run:
    from fxcli.recipe.load import resolved_yaml
    from fxcli.zoo.plugins import load_zoo

    text = resolved_yaml(recipe)
    info = {
        "created": provenance.now(),
        "recipe": recipe.name,
        "task": recipe.task,
        "seed": recipe.seed,
        "demo": manifest.is_phantom,
        "manifest": os.path.abspath(manifest.file),
        "manifest_sha256": manifest.digest,
        "straddling_test": len(manifest.straddling),
        "recipe_sha256": provenance.digest(text),
        "init": _init(recipe),
        **provenance.describe(load_zoo()),
    }
    run = directory.create(recipe.name, info, out=out)
    write_text(run.path / "recipe.yaml", text)
    for name in ("manifest.csv", "fingerprint.json"):
        source = manifest.file if name == "manifest.csv" else manifest.root / name
        if source.is_file():
            shutil.copyfile(source, run.path / name)
    return run


def _init(recipe: TrainRecipe) -> dict[str, str]:
    """What `model.init` was on the day: its name, and file and hash where it was a run or file."""
    from fxcli.zoo.plugins import load_zoo

    key = recipe.model.init
    if key == "random" or key in load_zoo().backbone(recipe.model.backbone).weights:
        return {"name": key}
    file, _ = directory.find_model(key)
    return {"name": key, "file": os.path.abspath(file), "sha256": sha256_of(file)}


def _reopen(path: Path) -> tuple[Run, TrainRecipe, Manifest]:
    """A stopped run, with its own recipe and data.

    Raises:
        RunError: It is finished, or its recipe or data changed since.
    """
    from fxcli.data.manifest import read_manifest
    from fxcli.recipe.load import resolved_yaml

    run = directory.open_run(path)
    info = run.info()
    if info["status"] == "finished":
        raise RunError("this run is finished", where=path, hint="fx train RECIPE starts another")
    recipe = _recipe(str(run.path / "recipe.yaml"), [], check_init=False)
    manifest = read_manifest(Path(info["manifest"]))
    for what, now in (("recipe", provenance.digest(resolved_yaml(recipe))), ("manifest", manifest.digest)):
        if info[f"{what}_sha256"] != now:
            raise RunError(
                f"the {what} changed since this run was started; resuming would mix two experiments",
                where=path,
                hint="start a new run",
            )
    return run, recipe, manifest


def _run(run: Run, recipe: TrainRecipe, manifest: Manifest, *, resume: bool) -> None:
    from fxcli.model import hardware
    from fxcli.zoo.plugins import load_zoo

    run.update(status="running", ended=None, error=None)
    zoo = load_zoo()
    try:
        before = run.info().get("compute") if resume else None
        chosen = recipe.hardware
        compute = hardware.recorded(chosen, before) if before else hardware.compute(chosen, training=True)
        run.update(compute=hardware.describe(compute))
        if recipe.task == "classify":
            from fxcli.training import classify, state

            training = state.build(recipe, manifest, compute, zoo, _info(recipe, manifest, zoo, compute))
            console.note(f"run {run.path}")
            figures = classify.train(training, run, resume=resume)
        else:
            from fxcli.training import pretrain

            console.note(f"run {run.path}")
            info = _info(recipe, manifest, zoo, compute)
            figures = pretrain.train(recipe, manifest, compute, zoo, info, run, resume=resume)
    except (Interrupted, KeyboardInterrupt):
        run.update(status="interrupted", ended=provenance.now())
        raise
    except BaseException as error:
        run.update(status="failed", ended=provenance.now(), error=str(error))
        run.log(f"failed: {error}")
        raise
    run.update(status="finished", ended=provenance.now(), figures=figures)
    _report(run, recipe, figures)


def _info(recipe: TrainRecipe, manifest: Manifest, zoo: Zoo, compute: Compute) -> dict[str, Any]:
    """The header of the model file, but for what only the model knows."""
    from fxcli.recipe.load import resolved_yaml

    plugin = zoo.provider("backbone", recipe.model.backbone)
    info: dict[str, Any] = {
        "task": recipe.task,
        "name": recipe.name,
        "backbone": zoo.backbone(recipe.model.backbone).name,
        "model": recipe.model.model_dump(mode="json"),
        "plugin": {"name": plugin.name, "distribution": plugin.distribution, "version": plugin.version},
        "recipe_sha256": provenance.digest(resolved_yaml(recipe)),
        "manifest_sha256": manifest.digest,
        "data": manifest.fingerprint().get("name") or manifest.root.name,
        "demo": manifest.is_phantom,
        "seed": recipe.seed,
        "channels_last": compute.channels_last,
        "created": provenance.now(),
        "fx_version": __version__,
    }
    if recipe.task == "classify":
        info["batch_size"] = recipe.evaluate.batch_size
    return info


def _report(run: Run, recipe: TrainRecipe, figures: dict[str, Any]) -> None:
    is_classify = recipe.task == "classify"
    what = "validation" if is_classify else "training"
    if console.json:
        console.record({"run": str(run.path), "model": str(run.model_file), what: figures})
        return
    scalars = {key: value for key, value in figures.items() if isinstance(value, int | float)}
    if scalars:
        console.table(list(scalars), [[f"{value:.4g}" for value in scalars.values()]], title=f"{what} part")
    console.note(f"model {run.model_file}")
    path = shlex.quote(str(run.path))
    if is_classify:
        console.note(f"next: fx evaluate {path}   or   fx predict FOLDER --model {path} --cam out/")
    else:
        console.note(f"next: fx train RECIPE --set model.backbone={recipe.model.backbone} --set model.init={path}")


def _dry_run(recipe: TrainRecipe, manifest: Manifest) -> None:
    from fxcli.model import hardware
    from fxcli.training import dry, state
    from fxcli.zoo.plugins import load_zoo

    if recipe.task != "classify":
        raise UsageError("--dry-run is for task: classify")
    zoo = load_zoo()
    training = state.build(recipe, manifest, hardware.compute(recipe.hardware, training=True), zoo, {})
    rows = dry.run(training)
    if console.json:
        console.record({"phases": rows})
        return
    shown = [[row["phase"], row["epochs"], f"{row['images_per_s']:.1f}", f"{row['minutes']:.1f}"] for row in rows]
    console.table(["phase", "epochs", "images/s", "minutes"], shown, title="estimate from two steps a phase")
    console.note(f"{sum(row['minutes'] for row in rows):.0f} minutes in all, without validation")
    if rows[-1]["memory_mib"] is not None:
        console.note(f"peak memory {rows[-1]['memory_mib']:.0f} MiB")
