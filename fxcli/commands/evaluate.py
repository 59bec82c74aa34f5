"""`fx evaluate`: models on a labelled part → figures."""

from __future__ import annotations

from collections import Counter
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fxcli.commands.options import BatchSize, Debug, Device, Engine, Json, Out, Precision, Quiet, Workers
from fxcli.commands.startup import import_torch
from fxcli.console import console
from fxcli.errors import DataError, SomeRowsFailed
from fxcli.run import provenance
from fxcli.run.files import write_json, write_text

if TYPE_CHECKING:
    from fxcli.data.manifest import Manifest, Row
    from fxcli.inference.opened import Opened
    from fxcli.inference.pipeline import Answer


class Tta(StrEnum):
    """Test-time augmentation."""

    none = "none"
    flips = "flips"


def evaluate(
    models: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="RUN_OR_FILE…", help="Runs, model files, or names of recipes; default: the last finished run."
        ),
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option("--model", metavar="RUN_OR_FILE", help="The same as an option, as in fx predict; repeatable."),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option("--data", metavar="MANIFEST", help="A manifest.csv; default: the run's own."),
    ] = None,
    split: Annotated[str, typer.Option("--split", help="train, val, calibration or test.")] = "test",
    tta: Annotated[Tta, typer.Option("--tta", help="flips: mean over the picture and its mirror.")] = Tta.none,
    out: Out = None,
    engine: Engine = None,
    precision: Precision = None,
    device: Device = None,
    workers: Workers = None,
    batch_size: BatchSize = None,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Measures models on a labelled part: accuracy, balanced accuracy, macro-F1, AUROC, per class, confusion.

    Writes evaluation/SPLIT.json and predictions/SPLIT.csv (with logits) into the run; for a model file outside any
    run into ./evaluations/NAME-SHA256/; or into --out DIR, for several models each into a folder of its own. A picture
    that cannot be read is a row with status=error and is not measured; the exit code is then 9.

    Example: fx evaluate runs/final-20260101T120000Z-1a2b --tta flips

    Example: fx evaluate final baseline --split val
    """
    console.configure(json=json, quiet=quiet, debug=debug)
    import_torch()
    from fxcli.inference.opened import open_model
    from fxcli.run.directory import find_model

    # All are looked up first: a mistyped name must not end what took an hour.
    wanted: list[str | None] = [*(models or []), *(model or [])]
    found = [find_model(name) for name in wanted or [None]]
    names = Counter(run.path.name for _, run in found if run)
    results: list[dict[str, Any]] = []
    failed, total, failed_in = 0, 0, Path()
    for file, _ in found:
        flips = tta is Tta.flips
        opened = open_model(
            str(file),
            device=device,
            workers=workers,
            batch_size=batch_size,
            flips=flips,
            engine=engine and engine.value,
            precision=precision and precision.value,
        )
        manifest = opened.manifest(data, "fx evaluate")
        rows = opened.part(manifest, split)
        answers = _answers(opened, manifest, rows)
        results.append(_result(opened, manifest, rows, answers, split, tta))
        plain = opened.is_final and names[opened.name] == 1
        folder = (out / (opened.name if plain else opened.unique_name) if len(found) > 1 else out) if out else None
        predictions = _write(opened, folder, results[-1], rows, answers, own_data=data is None)
        total += len(rows)
        if results[-1]["n_failed"]:
            failed, failed_in = failed + results[-1]["n_failed"], predictions
    if json:
        for result in results:
            console.record(result)
    else:
        _show(results, split)
    if failed:
        raise SomeRowsFailed(failed, total, failed_in)


def _answers(opened: Opened, manifest: Manifest, rows: list[Row]) -> list[Answer]:
    files = [manifest.path_of(row) for row in rows]
    answers = list(console.progress(opened.pipeline.run(files), total=len(files), what="evaluate"))
    if all(answer.logits is None for answer in answers):
        raise DataError(
            f"none of {len(answers)} pictures can be read, the first: {answers[0].reason}", where=answers[0].path
        )
    return answers


def _result(
    opened: Opened, manifest: Manifest, rows: list[Row], answers: list[Answer], split: str, tta: Tta
) -> dict[str, Any]:
    import numpy as np

    from fxcli.evaluation import metrics
    from fxcli.evaluation.predictions import notice

    classes = opened.model.classes
    measured = [
        (a.logits, classes.index(row.label)) for a, row in zip(answers, rows, strict=True) if a.logits is not None
    ]
    logits, targets = np.stack([values for values, _ in measured]), np.array([target for _, target in measured])
    return {
        **opened.origin(),
        "evaluated": provenance.now(),
        "evaluated_manifest": str(manifest.file),
        "evaluated_manifest_sha256": manifest.digest,
        "split": split,
        "tta": tta.value,
        "n_failed": len(rows) - len(measured),
        "figures": metrics.classification(logits, targets, classes),
        "notice": notice(demo=opened.model.is_demo),
    }


def _write(
    opened: Opened,
    out: Path | None,
    result: dict[str, Any],
    rows: list[Row],
    answers: list[Answer],
    *,
    own_data: bool,
) -> Path:
    """Writes both files; returns the predictions."""
    from fxcli.evaluation.predictions import PredictionTable
    from fxcli.evaluation.table import csv_line, path_cell

    name = result["split"] + ("-flips" if result["tta"] == "flips" else "")
    if (result["engine"], result["precision"]) != ("torch", "fp32"):
        name += f"-{result['engine']}-{result['precision']}"
    base = out or (opened.run.path if opened.run else Path("evaluations") / opened.unique_name)
    if base == (opened.run and opened.run.path) and not opened.is_final:
        # A checkpoint's figures beside those of the run's own model.
        name += f"-model-{opened.digest[:8]}"
    if not own_data:
        name += f"-{result['evaluated_manifest_sha256'][:8]}"
    table = PredictionTable(opened.model.classes, demo=opened.model.is_demo, labelled=True)
    lines = [csv_line(table.columns)]
    for row, answer in zip(rows, answers, strict=True):
        cells = table.cells(path_cell(row.path), logits=answer.logits, reason=answer.reason, label=row.label)
        lines.append(csv_line(cells))
    for folder in ("evaluation", "predictions"):
        (base / folder).mkdir(parents=True, exist_ok=True)
    write_json(base / "evaluation" / f"{name}.json", result)
    predictions = base / "predictions" / f"{name}.csv"
    write_text(predictions, "\n".join(lines) + "\n")
    console.note(f"wrote {base / 'evaluation' / name}.json and {predictions}")
    return predictions


def _show(results: list[dict[str, Any]], split: str) -> None:
    names = ("accuracy", "balanced_accuracy", "macro_f1", "auroc", "nll")
    console.table(
        ["model", "n", *names],
        [
            [_shown(result), result["figures"]["n"], *(_figure(result["figures"][name]) for name in names)]
            for result in results
        ],
        title=f"{split} part",
    )
    columns = ("precision", "recall", "f1", "auroc")
    for result in results:
        per_class = result["figures"]["per_class"]
        console.table(
            ["class", *columns, "n"],
            [
                [name, *(_figure(values[column]) for column in columns), values["support"]]
                for name, values in per_class.items()
            ],
            title=f"{_shown(result)}: per class",
        )
        console.table(
            ["true class", *(str(number) for number in range(1, len(per_class) + 1))],
            [
                [f"{number} {name}", *row]
                for number, (name, row) in enumerate(zip(per_class, result["figures"]["confusion"], strict=True), 1)
            ],
            title="how often it was called which",
        )
    for text in dict.fromkeys(result["notice"] for result in results):
        console.note(text)


def _shown(result: dict[str, Any]) -> str:
    return f"{result['model']} (DEMO)" if result["demo"] else str(result["model"])


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
