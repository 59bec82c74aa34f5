"""What a model says of the labelled pictures of a manifest: arrays to measure, and rows for the table of predictions.

Called by `fx evaluate` and by studies; training's own validation needs logits alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from fxcli.console import console
from fxcli.data import split
from fxcli.data.manifest import COLUMNS, HELD_OUT, LEARNT, Manifest, Row, groups_of, read_manifest
from fxcli.data.radiograph import warn_of
from fxcli.errors import DataError, RunError
from fxcli.evaluation.metadata import Metadata, metadata_alone
from fxcli.evaluation.predictions import Labelled, LabelledRow, read_labelled
from fxcli.inference.detected import OpenedDetector
from fxcli.inference.opened import Opened, by
from fxcli.run import ledger
from fxcli.run.directory import Run
from fxcli.run.ledger import Look


def measure(opened: Opened, manifest: Manifest, rows: Sequence[Row]) -> tuple[Labelled, list[LabelledRow]]:
    """Runs a model over rows.

    Returns:
        The pictures that could be read, logits by seed; and all of them as rows of predictions, in order.

    Raises:
        DataError: None can be read.
    """
    classes = opened.model.classes
    files = [manifest.path_of(row) for row in rows]
    answers = list(console.progress(opened.pipeline.run(files), total=len(files), what="evaluate"))
    told = [
        LabelledRow(
            row.path, row.label, group, answer.logits, answer.distance, answer.reason or "; ".join(answer.cautions)
        )
        for row, group, answer in zip(rows, groups_of(rows), answers, strict=True)
    ]
    read = [(row, answer) for row, answer in zip(told, answers, strict=True) if answer.members is not None]
    if not read:
        raise DataError(
            f"none of {len(answers)} pictures can be read, the first: {answers[0].reason}", where=answers[0].path
        )
    warn_of(caution for answer in answers for caution in answer.cautions)
    members = np.stack([answer.members for _, answer in read if answer.members is not None])
    distances = [answer.distance for _, answer in read]
    said = Labelled(
        paths=tuple(row.path for row, _ in read),
        groups=tuple(row.group for row, _ in read),
        targets=np.array([classes.index(row.label) for row, _ in read]),
        logits=np.stack([members[:, places].mean(axis=1) for places in by("seed", opened.model.info)]),
        distances=None if None in distances else np.array(distances, dtype=float),
        by_fold=np.stack([members[:, places].mean(axis=1) for places in by("fold", opened.model.info)], axis=1),
    )
    return said, told


def metadata_of(learnt: Sequence[Row], positive: Sequence[bool], asked: Mapping[str, Sequence[str]]) -> Metadata | None:
    """What columns of a manifest tell of a finding without any picture.

    Those that fx writes itself are left out, the label among them, and what is joined with one.

    Args:
        learnt: Training pictures of the same manifest.
        positive: Whether each of them bears a finding.
        asked: Column → value of each picture that is measured.
    """
    own = [name for name in asked if learnt and not set(learnt[0].parts(name)) & set(COLUMNS)]
    columns = {name: [row.column(name) for row in learnt] for name in own}
    return metadata_alone(columns, positive, asked)


def learnt_from(run: Run | None, rows: Sequence[Row], *, fitted: bool = False) -> int:
    """How many of the rows, by the hash of their source, stand among the pictures that a run learnt from or chose by.

    With `fitted` also those that it fitted what it knows of its errors to. A pretraining chooses by none; it learnt
    from the parts of its data.splits, without their labels.
    """
    if run is None or not (run.path / "manifest.csv").is_file():
        return 0
    learnt: set[str] = set()
    for part in [part for *_, part in run.parts()] or [run]:
        known, info = _manifest_of(part, run.manifest_file.parent), part.info()
        parts = LEARNT[:1] if info.get("task") == "pretrain" else LEARNT if fitted else LEARNT[:2]
        # Runs of an older fx tell of neither, and had the defaults.
        taken = split.learnt(known, info.get("train_frac", 1), info["seed"], info.get("splits", ("train",)))
        learnt |= {row.sha256 for row in taken.rows if row.split in parts}
    learnt.discard("")
    return sum(row.sha256 in learnt for row in rows)


def look_at(opened: Opened | OpenedDetector, manifest: Manifest, rows: Sequence[Row]) -> Look | None:
    """Enters a look at a test part into the ledger beside the manifest; None, with a warning, where that fails."""
    part = ledger.part_of((row.sha256 or row.path, row.label) for row in rows)
    try:
        return ledger.look(
            manifest.root, part=part, model=opened.digest, name=opened.name, manifest_sha256=manifest.digest
        )
    except OSError as error:
        console.warn(f"this look at the test part cannot be noted beside the manifest: {error}")
        return None


def out_of_fold(run: Run) -> Labelled:
    """What the parts of a run say of the pictures that they held out, by seed.

    Raises:
        RunError: It was not trained in folds, or its predictions are damaged.
    """
    files = run.oof_files
    if not files:
        raise RunError("this run has no out-of-fold predictions", where=run.path, hint="fx train RECIPE --folds 5")
    try:
        said = [read_labelled(file.read_bytes().decode("utf-8"))[0] for file in files]
    except (OSError, ValueError) as error:
        raise RunError(f"damaged: {error}", where=files[0].parent) from error
    return Labelled.of_seeds(said)


def members_of(opened: Opened, rows: Sequence[Row]) -> Iterator[list[int]]:
    """The members, by number, for each picture: of a model in folds those that held it out, if any of them saw it."""
    folds = [member.get("fold") for member in opened.model.info.get("members") or [{}]]
    by_picture = _folds(opened.run) if opened.run and opened.is_in_folds else {}
    for row in rows:
        fold = by_picture.get(row.sha256 or row.path)
        yield [number for number, its in enumerate(folds) if fold is None or its == fold]


def _folds(run: Run) -> dict[str, int]:
    """By the hash of its raw file, or its path where none is known: the fold that held a picture out."""
    found: dict[str, int] = {}
    for _, fold, part in run.parts():
        if fold is not None:
            rows = _manifest_of(part, run.manifest_file.parent).rows
            found |= {row.sha256 or row.path: fold for row in rows if row.split == HELD_OUT}
    return found


def _manifest_of(run: Run, root: Path) -> Manifest:
    """A run's copy of its manifest; `root` is where the pictures lie, which are not looked for."""
    return read_manifest(run.path / "manifest.csv", root=root, with_pictures=False)
