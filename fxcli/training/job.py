"""One training from a recipe to a finished run: made, run, resumed, told of in run.json. Called by `fx train`.

A recipe that asks for folds or seeds is trained once for each, every time into a run of its own within the run; what
becomes of those parts together is in ensemble. The loops are in loop and pretrain.
"""

from __future__ import annotations

import contextlib
import functools
import os
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from fxcli import __version__
from fxcli.console import console
from fxcli.data import dataset
from fxcli.data.manifest import Manifest, read_manifest
from fxcli.errors import DataError, Interrupted, RunError
from fxcli.model import hardware, init
from fxcli.model.hardware import Compute
from fxcli.model.init import Origin
from fxcli.recipe.detection import DetectRecipe
from fxcli.recipe.load import load, resolved_yaml
from fxcli.recipe.preparation import PrepareRecipe
from fxcli.recipe.schema import ClassifyRecipe, PretrainRecipe, StudyRecipe
from fxcli.recipe.tasks import TrainRecipe
from fxcli.run import directory, provenance
from fxcli.run.directory import Run
from fxcli.run.files import copy, write_text
from fxcli.training import classify, detect, ensemble, loop, pictures, pretrain, trial
from fxcli.training.ensemble import Part
from fxcli.training.session import digest_of
from fxcli.training.state import AnyTraining
from fxcli.training.world import ALONE, World
from fxcli.zoo.plugins import Zoo, load_zoo


def create(
    recipe: TrainRecipe, manifest: Manifest, out: Path | None, *, origin: Origin | None = None, **more: Any
) -> Run:
    """A new run directory, with the recipe and the manifest in it.

    Args:
        recipe: Resolved.
        manifest: Of its pictures.
        out: The directory itself; default runs/<name>-<UTC>-<id>.
        origin: What its backbone starts from, if a whole that it is a part of knows; else what `model.init` means now.
        more: For run.json.

    Raises:
        RunError: `out` is in use or cannot be written to.
        DataError: The manifest cannot be trained on, or not in so many folds.
        FxError: There is nothing that `model.init` means.
    """
    if origin is None:
        origin = origin_of(recipe)
        pictures.warn_of_size(recipe, manifest)
        pictures.warn_of_start(recipe, manifest, origin)
    if isinstance(recipe, PretrainRecipe):
        pictures.warn_of_pool(recipe, manifest)
        more["splits"] = recipe.data.splits
    elif isinstance(recipe, ClassifyRecipe):
        check(recipe, manifest)
    elif isinstance(recipe, DetectRecipe):
        learnt = pictures.learnt_from(recipe, manifest)
        more["boxes_sha256"] = detect.check_parts(recipe, learnt)
        detect.warn_of_negatives(recipe, learnt)
    text = resolved_yaml(recipe)
    info = {
        "created": provenance.now(),
        "recipe": recipe.name,
        "task": recipe.task,
        "seed": recipe.seed,
        "train_frac": recipe.data.train_frac,
        "demo": manifest.is_phantom,
        "manifest": os.path.abspath(manifest.file),
        "manifest_sha256": manifest.digest,
        # Of a part of a run, the whole keeps it.
        "pictures_sha256": None if "part_of" in more else pictures.contents_of(recipe, manifest),
        "straddling_test": len(manifest.straddling),
        "recipe_sha256": digest_of(recipe),
        "init": origin.to_mapping(),
        **provenance.describe(load_zoo()),
        **more,
    }
    files: dict[str, Callable[[Path], object]] = {
        "recipe.yaml": lambda file: write_text(file, text),
        "manifest.csv": manifest.save,
    }
    if (fingerprint := manifest.fingerprint_file).is_file():
        files["fingerprint.json"] = functools.partial(copy, fingerprint)
    return directory.create(recipe.name, info, out=out, files=files)


def check(recipe: ClassifyRecipe, manifest: Manifest) -> None:
    """Whether every training that the recipe asks for can begin: a fold that cannot must not be found after hours.

    Raises:
        DataError: The manifest cannot be trained on, or not in so many folds.
        RecipeError: A last batch would be too small, see `trial.last_batch`.
    """
    manifest.require_labels()  # else that would be told of a fold
    parts = ensemble.parts(recipe, manifest, Run(Path()))
    counts = set()
    for alone, rows, fold in [(part.recipe, part.manifest, part.fold) for part in parts] or [(recipe, manifest, None)]:
        learnt = pictures.learnt_from(alone, rows)
        try:
            classify.check_parts(alone, learnt)
        except DataError as error:
            if fold is None:
                raise
            what = f"fold {fold} cannot be trained: {error.what}"
            hint = "fewer folds, or others: --set ensemble.fold_seed=1"
            raise DataError(what, where=error.where, hint=hint) from error
        counts.add(len(learnt.part("train")))
    trial.last_batch(recipe, load_zoo().backbone(recipe.model.backbone), counts)


def is_begun(run: Run) -> bool:
    """Whether a run directory was made, and whole."""
    return (run.path / "run.json").is_file()


def origin_of(recipe: TrainRecipe) -> Origin:
    """What `model.init` means now; see `init.origin_of`."""
    return init.origin_of(load_zoo().backbone(recipe.model.backbone), recipe.model.init)


def _origin(run: Run) -> Origin:
    """What a run starts from."""
    try:
        return Origin.from_mapping(run.info()["init"])
    except (KeyError, TypeError, ValueError) as error:
        raise RunError(f"run.json is damaged, or of an older fx: init: {error}", where=run.path) from error


def reopen(path: Path) -> tuple[Run, TrainRecipe, Manifest]:
    """A stopped run, with its own recipe and data.

    Raises:
        RunError: It is finished or a part of another, or its recipe or data changed since.
    """
    run = directory.open_run(path)
    info = run.info()
    if info.get("part_of"):
        raise RunError("this is one part of a run, and goes on with it", where=path, hint=_going_on(run))
    if info["status"] == "finished":
        raise RunError("this run is finished", where=path, hint="fx train RECIPE starts another")
    recipe = load(run.path / "recipe.yaml", check_init=False).recipe
    if isinstance(recipe, PrepareRecipe | StudyRecipe):
        raise RunError("this run trains nothing", where=path)
    manifest = read_manifest(run.manifest_file)
    _check_unchanged(run, recipe, manifest)
    return run, recipe, manifest


def _going_on(run: Run) -> str:
    """The command that goes on with a run; a part is resumed by resuming the whole."""
    return f"fx train --resume {shlex.quote(str(directory.whole_of(run.path, run.info())))}"


def _check_unchanged(run: Run, recipe: TrainRecipe, manifest: Manifest) -> None:
    info = run.info()
    digests = {"recipe": digest_of(recipe), "manifest": manifest.digest}
    if isinstance(recipe, DetectRecipe):
        digests["boxes"] = detect.check_parts(recipe, pictures.learnt_from(recipe, manifest))
    # Parts of a run have none, and runs of an older fx.
    if info.get("pictures_sha256"):
        digests["pictures"] = pictures.contents_of(recipe, manifest)
    for what, now in digests.items():
        if info.get(f"{what}_sha256") != now:
            raise RunError(
                f"the {what} changed since this run was started; resuming would mix two experiments",
                where=run.path,
                hint="start a new run",
            )


def take_part(run: Run, world: World, *, resume: bool) -> None:
    """What `execute` does in the first process, in the others: they train with it, and write nothing."""
    recipe = cast("TrainRecipe", load(run.path / "recipe.yaml", check_init=False).recipe)
    _one(run, recipe, read_manifest(run.manifest_file), resume=resume, world=world)


def execute(run: Run, recipe: TrainRecipe, manifest: Manifest, *, resume: bool, world: World = ALONE) -> dict[str, Any]:
    """Trains to the end, and keeps in run.json what became of it.

    Args:
        run: Made by `create`, and locked.
        recipe: Of the run.
        manifest: Likewise.
        resume: Whether it goes on from where it was stopped.
        world: The processes that make it; this is the first.

    Returns:
        The validation figures of what was trained; of folds, those on the pictures that each held out.

    Raises:
        Interrupted: After saving, when the user stopped it.
        RunError: The run cannot be written to, or the system ended a process of it; what was saved before is whole.
    """
    try:
        with directory.writing(directory.whole_of(run.path, run.info())):
            run.update(status="running", ended=None, error=None)
            parts = ensemble.parts(recipe, manifest, run) if isinstance(recipe, ClassifyRecipe) else []
            if parts:
                figures = _parts(run, recipe, manifest, parts)
            else:
                figures = _one(run, recipe, manifest, resume=resume, world=world)
            run.update(status="finished", ended=provenance.now(), figures=figures)
    except (Interrupted, KeyboardInterrupt):
        _ended(run, status="interrupted")
        raise
    except BaseException as error:
        _ended(run, status="failed", error=str(error))
        raise
    return figures


def _ended(run: Run, **values: Any) -> None:
    # What cannot be written must not hide why: it may be the same.
    with contextlib.suppress(OSError, RunError):
        run.update(ended=provenance.now(), **values)
        if "error" in values:
            run.log(f"failed: {values['error']}")


def _parts(run: Run, recipe: TrainRecipe, manifest: Manifest, parts: list[Part]) -> dict[str, Any]:
    """Trains each part that is not finished yet, and puts them together."""
    console.note(f"run {run.path}: {len(parts)} trainings")
    for part in parts:
        exists = is_begun(part.run)
        if exists:
            _check_unchanged(part.run, part.recipe, part.manifest)
            if part.run.info()["status"] == "finished":
                continue
        else:
            whole = os.path.relpath(run.path, part.run.path)
            origin = _origin(run)
            # Computed as those before it, wherever the whole goes on.
            alike = {"compute": before} if (before := _computed(parts)) else {}
            create(part.recipe, part.manifest, part.run.path, origin=origin, part_of=whole, fold=part.fold, **alike)
        console.note(part.title)
        try:
            execute(part.run, part.recipe, part.manifest, resume=exists)
        except Interrupted as error:
            raise Interrupted(error.what, hint=_going_on(run)) from error
    run.update(compute=_computed(parts))
    if cut := sum("ended_by" in part.run.info() for part in parts):
        run.update(ended_by=f"train.max_minutes ended {cut} of {len(parts)} trainings")
    zoo = load_zoo()
    return ensemble.combine(run, manifest, parts, zoo, {"recipe_sha256": run.info()["recipe_sha256"]})


def _computed(parts: list[Part]) -> dict[str, Any] | None:
    """What the first part that was begun is computed with."""
    begun = (part.run.info().get("compute") for part in parts if is_begun(part.run))
    return next((found for found in begun if found), None)


def _one(run: Run, recipe: TrainRecipe, manifest: Manifest, *, resume: bool, world: World) -> dict[str, Any]:
    # Of a run that was begun, or of the parts before this one.
    before = run.info().get("compute")
    if before and before.get("processes", 1) != world.size:
        raise RunError(
            f"this run is made by {before.get('processes', 1)} processes, and here are {world.size}; "
            "with another number it would mix two experiments",
            where=run.path,
            hint="start as many, or a new run",
        )
    chosen = recipe.hardware
    compute = hardware.recorded(chosen, before) if before else hardware.compute(chosen, training=True)
    if world.is_first:
        run.update(compute={**hardware.describe(compute), "processes": world.size})
        if resume and before and hardware.is_elsewhere(compute, before):
            run.update(computed_before=[*run.info().get("computed_before", []), before])
    zoo, origin = load_zoo(), _origin(run)
    info = _header(recipe, manifest, compute, origin)
    if resume and run.state_file.exists():
        origin = origin.already_there
    with dataset.attended(_going_on(run)):
        if isinstance(recipe, PretrainRecipe):
            console.note(f"run {run.path}")
            learnt = pictures.learnt_from(recipe, manifest, told=True)
            return pretrain.train(recipe, learnt, compute, zoo, info, run, resume=resume, origin=origin)
        training = build(recipe, manifest, compute, zoo, info, origin)
        training.world = world
        console.note(f"run {run.path}")
        return loop.train(training, run, resume=resume)


def build(
    recipe: ClassifyRecipe | DetectRecipe,
    manifest: Manifest,
    compute: Compute,
    zoo: Zoo,
    info: dict[str, Any],
    origin: Origin | None = None,
) -> AnyTraining:
    """A training in place for its first step; `info` is the header of its model file, for `origin` see session.

    Raises:
        DataError: The pictures, or their boxes, are not what it needs.
        WeightsUnavailable: See `model.init`.
    """
    manifest = pictures.learnt_from(recipe, manifest, told=True)
    if isinstance(recipe, ClassifyRecipe):
        return classify.build(recipe, manifest, compute, zoo, info, origin)
    return detect.build(recipe, manifest, compute, zoo, info, origin)


def _header(recipe: TrainRecipe, manifest: Manifest, compute: Compute, origin: Origin) -> dict[str, Any]:
    """The header of the model file, but for what only the model knows."""
    zoo = load_zoo()
    plugin = zoo.provider("backbone", recipe.model.backbone)
    info: dict[str, Any] = {
        "task": recipe.task,
        "name": recipe.name,
        "backbone": zoo.backbone(recipe.model.backbone).name,
        "model": recipe.model.model_dump(mode="json"),
        "plugin": {"name": plugin.name, "distribution": plugin.distribution, "version": plugin.version},
        "recipe_sha256": digest_of(recipe),
        "manifest_sha256": manifest.digest,
        "data": manifest.fingerprint().get("name") or manifest.root.name,
        "demo": manifest.is_phantom,
        "seed": recipe.seed,
        "channels_last": compute.channels_last,
        "created": provenance.now(),
        "fx_version": __version__,
    }
    if origin.sha256:
        info["init_sha256"] = origin.sha256
    if isinstance(recipe, DetectRecipe):
        maker = zoo.provider("detector", recipe.detect.detector)
        info["detect"] = recipe.detect.model_dump(mode="json")
        info["detector_plugin"] = {"name": maker.name, "distribution": maker.distribution, "version": maker.version}
        info["batch_size"] = recipe.evaluate.batch_size
    if isinstance(recipe, ClassifyRecipe):
        info |= {"batch_size": recipe.evaluate.batch_size, "negative_class": recipe.evaluate.negative_class}
    return info
