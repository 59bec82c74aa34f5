"""Works a study off: each training without a result is made, measured once, and put into the results.

Called by `fx train`; what a training is, is in job. A training's run lies at <study>/<data>/<run>-s<seed>, so that the
same command finds what was begun. The results decide what is done: a machine that has them needs no runs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fxcli import __version__
from fxcli.console import console
from fxcli.data.manifest import Manifest, Row, groups_of, read_manifest
from fxcli.errors import DataError, Interrupted, RunError
from fxcli.evaluation.predictions import Labelled
from fxcli.evaluation.study import LEAKED, Answers
from fxcli.inference import measured
from fxcli.inference.opened import Opened, open_model
from fxcli.model import hardware
from fxcli.recipe.load import difference, load
from fxcli.recipe.messages import likely
from fxcli.recipe.schema import ClassifyRecipe, StudyComparison, StudyRecipe
from fxcli.recipe.study import Entry
from fxcli.run import provenance
from fxcli.run.directory import Run, held
from fxcli.run.files import check_writable
from fxcli.run.lock import Lock
from fxcli.training import job, pictures
from fxcli.training.results import Results, deciding_digest, start_digest


def work(study: StudyRecipe, entries: Sequence[Entry], folder: Path, results: Results) -> None:
    """Trains and measures what is not done yet, in order.

    Args:
        study: Whose comparisons must be possible.
        entries: All of it.
        folder: Of its runs.
        results: Looked into and added to.

    Raises:
        Interrupted: After saving, when the user stopped it.
        DataError: One of them cannot be trained or measured, or then not be compared, or the results cannot be
            written; told before the first.
        RunError: A result or a run that was begun is of another recipe or other pictures, or the folder is in use.
        FxError: As a training raises it; what was done before it is kept.
    """
    index = results.index()
    left = [entry for entry in entries if not results.find(entry, index)]
    files = {entry.data: Path(str(entry.recipe.data.manifest)) for entry in left}
    manifests = {data: read_manifest(file) for data, file in files.items()}
    for manifest in manifests.values():
        pictures.warn_of_leaks(manifest)
    for entry in left:
        results.check(entry.data, manifests[entry.data].digest, index)
        _check(entry, Run(folder / entry.name), manifests[entry.data])
    for number, asked in enumerate(study.comparisons):
        if all(data in manifests for _, data in asked.sides):
            _check_comparison(f"comparisons.{number}", asked, *(manifests[data] for _, data in asked.sides))
    folder.mkdir(parents=True, exist_ok=True)
    if left:
        # Else it would show after hours, and after a look at the test part that nothing keeps.
        check_writable(results.folder, hint="another place for the results: --set results=FOLDER")
    with Lock(folder):
        for number, entry in enumerate(left, 1 + len(entries) - len(left)):
            if results.find(entry, results.index()):
                continue  # its result came from another machine in the meantime
            console.note(f"{entry.name}, {number} of {len(entries)}")
            manifest = manifests[entry.data]
            try:
                with hardware.own_threads():
                    run = _trained(entry, Run(folder / entry.name), manifest)
                    _measure(study, entry, run, manifest, results)
            except (Interrupted, KeyboardInterrupt) as error:
                what = error.what if isinstance(error, Interrupted) else f"interrupted at {entry.name}"
                raise Interrupted(what, hint="the same command goes on from there") from error


def _check(entry: Entry, run: Run, manifest: Manifest) -> None:
    """Before hours are spent: it can be trained and measured, model.init is there, what was begun is of this entry."""
    if "test" in entry.parts and not manifest.part("test"):
        raise DataError("no picture in split 'test', which a study measures", where=manifest.file)
    if not job.is_begun(run):
        job.origin_of(entry.recipe)
        try:
            job.check(entry.recipe, manifest)
        except DataError as error:
            raise DataError(f"{entry.name}: {error.what}", where=error.where, hint=error.hint) from error
        return
    recipe = load(run.path / "recipe.yaml", check_init=False).recipe
    changed = []
    if not isinstance(recipe, ClassifyRecipe) or deciding_digest(recipe) != deciding_digest(entry.recipe):
        keys = [".".join(key) for key, _ in difference(recipe, entry.recipe) if key != ("data", "manifest")]
        changed.append(f"the recipe ({', '.join(keys)})")
    if run.info()["manifest_sha256"] != manifest.digest:
        changed.append("the manifest")
    now, before = start_digest(entry.recipe), run.info()["init"].get("sha256")
    if now and now != before:
        changed.append("what model.init names")
    if changed:
        raise RunError(
            f"{' and '.join(changed)} changed since this training was started",
            where=run.path,
            hint="undo the change; or delete this folder, to train it anew; or take another for all: --out",
        )


def _check_comparison(name: str, asked: StudyComparison, first: Manifest, second: Manifest) -> None:
    """That there are pictures to compare on, the same ones on both sides."""
    sides = []
    for manifest in (first, second):
        rows = [row for row in manifest.rows if (row.split == "test") == (asked.part == "test")]
        sides.append(([(row.path, row.label, row.leaked) for row in rows], groups_of(rows)))
    if sides[0] != sides[1]:
        what = "not the same pictures, with label, group and leaked, in the same order"
        raise DataError(f"{name}: {what}, as in {first.file}", where=second.file)
    label = asked.metric.partition(":")[2]
    if label and label not in first.classes:
        known = f"{', '.join(first.classes)}{likely(label, first.classes)}"
        raise DataError(f"{name}: there is no class '{label}'; there are {known}", where=first.file)
    leaked = LEAKED[asked.on] if asked.on else None
    if not any(label in ("", own) and leaked in (None, its) for _, own, its in sides[0][0]):
        raise DataError(f"{name}: no picture is left to compare on", where=first.file)


def _trained(entry: Entry, run: Run, manifest: Manifest) -> Run:
    """The finished run of an entry: made, gone on with, or found."""
    if not job.is_begun(run):
        run = job.create(entry.recipe, manifest, run.path)
        with held(run):
            job.execute(run, entry.recipe, manifest, resume=False)
    elif run.info()["status"] != "finished":
        # As it was begun: with its own number of workers, say.
        run, recipe, manifest = job.reopen(run.path)
        with held(run):
            job.execute(run, recipe, manifest, resume=True)
    return run


def _measure(study: StudyRecipe, entry: Entry, run: Run, manifest: Manifest, results: Results) -> None:
    """What it says of its parts, into the results; a look at the test part is noted in the ledger."""
    opened = open_model(str(run.path), device=entry.recipe.hardware.device)
    answers = {}
    if "test" in entry.parts:
        answers["test"] = _looked(opened, manifest)
    if "oof" in entry.parts:
        answers["oof"] = _answers(opened, measured.out_of_fold(run), ())
    results.name(study.comparisons)
    results.keep(entry, answers, _known(entry, run, opened))


def _looked(opened: Opened, manifest: Manifest) -> Answers:
    """What a model says of the test part: a look at it."""
    rows = opened.part(manifest, "test")
    said, told = measured.measure(opened, manifest, rows)
    if bad := [row for row in told if row.logits is None]:
        raise DataError(
            f"{len(bad)} of {len(rows)} test pictures cannot be read, the first: {bad[0].reason}",
            where=manifest.root / bad[0].path,
            hint="prepare them again; the training is kept",
        )
    if look := measured.look_at(opened, manifest, rows):
        console.note(look.told())
    return _answers(opened, said, rows)


def _answers(opened: Opened, said: Labelled, rows: Sequence[Row]) -> Answers:
    leaked = {row.path: row.leaked for row in rows}
    return Answers(said, np.array([leaked.get(path, "") for path in said.paths]), tuple(opened.model.classes))


def _known(entry: Entry, run: Run, opened: Opened) -> dict[str, Any]:
    """A training's line in the index: nothing of the machine, and no path."""
    info = run.info()
    parts = [part.info() for *_, part in run.parts()] or [info]
    seconds = sum(part.get("seconds", {}).get("spent_s", 0.0) for part in parts)
    scalars = {key: value for key, value in info["figures"].items() if isinstance(value, int | float)}
    return {
        "data": entry.data,
        "run": entry.run,
        "seed": entry.seed,
        "recipe_sha256": deciding_digest(entry.recipe),
        "manifest_sha256": info["manifest_sha256"],
        "init_sha256": info["init"].get("sha256"),
        "model_sha256": opened.digest,
        "backbone": opened.model.info["backbone"],
        "epochs": sum(part.get("epoch", 0) for part in parts),
        "minutes": round(seconds / 60, 2),
        "precision": next((part["compute"]["precision"] for part in parts if "compute" in part), None),
        "oof" if "oof" in entry.parts else "validation": _rounded(scalars),
        "fx_version": __version__,
        "torch": info["versions"]["torch"],
        "when": provenance.now(),
    }


def _rounded(figures: Mapping[str, float]) -> dict[str, float]:
    return {name: round(value, 5) for name, value in figures.items()}
