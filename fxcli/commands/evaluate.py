"""`fx evaluate`: models on a labelled part → figures."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fxcli.commands.options import BatchSize, Debug, Device, Json, Out, Quiet, Workers
from fxcli.console import console
from fxcli.errors import DataError, UsageError
from fxcli.run import provenance
from fxcli.run.files import write_json, write_text

if TYPE_CHECKING:
    import numpy as np

    from fxcli.data.manifest import Manifest, Row
    from fxcli.inference.opened import Opened


class Tta(StrEnum):
    """Test-time augmentation."""

    none = "none"
    flips = "flips"


def evaluate(
    models: Annotated[
        list[str], typer.Argument(metavar="RUN_OR_FILE…", help="Runs, model files, or names of recipes.")
    ],
    data: Annotated[
        Path | None,
        typer.Option("--data", metavar="MANIFEST", help="A manifest.csv; default: the run's own."),
    ] = None,
    split: Annotated[str, typer.Option("--split", help="train, val, calibration or test.")] = "test",
    tta: Annotated[Tta, typer.Option("--tta", help="flips: mean over the picture and its mirror.")] = Tta.none,
    out: Out = None,
    device: Device = None,
    workers: Workers = None,
    batch_size: BatchSize = None,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Measures models on a labelled part: accuracy, balanced accuracy, macro-F1, AUROC, per class, confusion.

    Writes evaluation/SPLIT.json and predictions/SPLIT.csv (with logits) into the run, or into --out DIR.

    Example: fx evaluate runs/final-20260101T120000Z-1a2b --tta flips

    Example: fx evaluate final baseline --split val
    """
    console.configure(json=json, quiet=quiet, debug=debug)
    from fxcli.inference.opened import open_model

    results = []
    for name in models:
        flips = tta is Tta.flips
        opened = open_model(name, device=device, workers=workers, batch_size=batch_size, flips=flips)
        manifest = _manifest(opened, data)
        rows = _rows(opened, manifest, split)
        logits = opened.pipeline.logits([manifest.path_of(row) for row in rows])
        results.append(_result(opened, manifest, rows, logits, split, tta))
        folder = (out / opened.name if len(models) > 1 else out) if out else None
        _write(opened, folder, results[-1], rows, logits, own_data=data is None)
    if json:
        for result in results:
            console.record(result)
    else:
        _show(results, split)


def _manifest(opened: Opened, data: Path | None) -> Manifest:
    from fxcli.data.manifest import read_manifest

    if data is not None:
        return read_manifest(data)
    if opened.run is None:
        raise UsageError(f"{opened.file} lies in no run, so it has no data of its own", hint="--data MANIFEST")
    recorded = Path(opened.run.info()["manifest"])
    # The run's copy says what was trained on; the pictures are still beside the original.
    manifest = read_manifest(opened.run.path / "manifest.csv", root=recorded.parent)
    if manifest.digest != opened.model.info["manifest_sha256"]:
        raise DataError("the run's manifest was changed since training", where=manifest.file, hint="--data MANIFEST")
    return manifest


def _rows(opened: Opened, manifest: Manifest, split: str) -> list[Row]:
    rows = manifest.part(split)
    if not rows:
        parts = ", ".join(sorted({row.split for row in manifest.rows}))
        raise DataError(f"no picture in split '{split}'", where=manifest.file, hint=f"it has {parts}")
    unknown = sorted({row.label for row in rows} - set(opened.model.classes))
    if unknown:
        raise DataError(
            f"the model does not know {', '.join(unknown)}",
            where=manifest.file,
            hint=f"its classes: {', '.join(opened.model.classes)}",
        )
    return rows


def _result(
    opened: Opened, manifest: Manifest, rows: list[Row], logits: np.ndarray, split: str, tta: Tta
) -> dict[str, Any]:
    import numpy as np

    from fxcli.evaluation import metrics
    from fxcli.evaluation.predictions import notice

    classes = opened.model.classes
    targets = np.array([classes.index(row.label) for row in rows])
    return {
        **opened.origin(),
        "evaluated": provenance.now(),
        "evaluated_manifest": str(manifest.file),
        "evaluated_manifest_sha256": manifest.digest,
        "split": split,
        "tta": tta.value,
        "figures": metrics.classification(logits, targets, classes),
        "notice": notice(demo=opened.model.is_demo),
    }


def _write(
    opened: Opened,
    out: Path | None,
    result: dict[str, Any],
    rows: list[Row],
    logits: np.ndarray,
    *,
    own_data: bool,
) -> None:
    import csv
    import io

    from fxcli.evaluation.predictions import PredictionTable

    suffix = "" if own_data else f"-{result['evaluated_manifest_sha256'][:8]}"
    name = result["split"] + ("-flips" if result["tta"] == "flips" else "") + suffix
    base = opened.run.path if opened.run and out is None else out or Path("evaluations") / opened.file.stem
    table = PredictionTable(opened.model.classes, demo=opened.model.is_demo, labelled=True)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(table.columns)
    for row, values in zip(rows, logits, strict=True):
        writer.writerow(table.cells(row.path, logits=values, label=row.label))
    for folder in ("evaluation", "predictions"):
        (base / folder).mkdir(parents=True, exist_ok=True)
    write_json(base / "evaluation" / f"{name}.json", result)
    write_text(base / "predictions" / f"{name}.csv", text.getvalue())
    console.note(f"wrote {base / 'evaluation' / name}.json and {base / 'predictions' / name}.csv")


def _show(results: list[dict[str, Any]], split: str) -> None:
    names = ("accuracy", "balanced_accuracy", "macro_f1", "auroc", "nll")
    console.table(
        ["model", "n", *names],
        [
            [result["model"], result["figures"]["n"], *(_figure(result["figures"][name]) for name in names)]
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
            title=f"{result['model']}: per class",
        )
        console.table(
            ["true class", *(str(number) for number in range(1, len(per_class) + 1))],
            [
                [f"{number} {name}", *row]
                for number, (name, row) in enumerate(zip(per_class, result["figures"]["confusion"], strict=True), 1)
            ],
            title="how often it was called which",
        )
    console.note(results[0]["notice"])


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
