"""`fx evaluate`: models on a labelled part → figures with intervals, and what one gains over another."""

from __future__ import annotations

from collections import Counter
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fxcli.commands.options import BatchSize, Debug, Device, Engine, Json, Out, Precision, Quiet, Workers
from fxcli.commands.startup import import_torch
from fxcli.console import console
from fxcli.errors import SomeRowsFailed, UsageError
from fxcli.run import provenance
from fxcli.run.files import write_json, write_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fxcli.data.manifest import Manifest, Row
    from fxcli.evaluation.predictions import Labelled, LabelledRow
    from fxcli.inference.opened import Opened

OOF = "oof"


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
    split: Annotated[
        str, typer.Option("--split", help="train, val, calibration, test, or oof: out-of-fold, of a run with --folds.")
    ] = "test",
    by: Annotated[
        list[str] | None,
        typer.Option("--by", metavar="COLUMN", help="Figures for each value of a column of the manifest; repeatable."),
    ] = None,
    study: Annotated[
        str | None,
        typer.Option("--study", metavar="COLUMN", help="Average the pictures of each study, and measure studies."),
    ] = None,
    exploratory: Annotated[
        bool, typer.Option("--exploratory", help="The comparison was not named before anybody looked.")
    ] = False,
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
    """Measures models on a labelled part: every figure with a 95 % interval, and what one model gains over another.

    Intervals count groups (patients, duplicates), not pictures. Of several models each is compared with the first, on
    the same pictures; the second one's accuracy decides, all else is exploratory. A look at a test part is noted in
    test_looks.jsonl beside the manifest, and counted. Test pictures with a twin in training are measured apart.

    Writes evaluation/SPLIT.json and predictions/SPLIT.csv (with logits) into the run; for a model file outside any
    run into ./evaluations/NAME-SHA256/; or into --out DIR, for several models each into a folder of its own. A picture
    that cannot be read is a row with status=error and is not measured; the exit code is then 9.

    Example: fx evaluate runs/final-20260101T120000Z-1a2b --by body_part

    Example: fx evaluate final best --split oof
    """
    console.configure(json=json, quiet=quiet, debug=debug)
    import_torch()
    from fxcli.commands import tables
    from fxcli.inference.opened import open_model
    from fxcli.run.directory import find_model

    if split == OOF and (data or study or tta is not Tta.none):
        raise UsageError("--split oof is what the run kept: it goes with neither --data, --study nor --tta")
    # All are looked up first: a mistyped name must not end what took an hour.
    wanted: list[str | None] = [*(models or []), *(model or [])]
    found = [find_model(name) for name in wanted or [None]]
    names = Counter(run.path.name for _, run in found if run)
    results: list[dict[str, Any]] = []
    measured: list[Labelled] = []
    failed, total, failed_in = 0, 0, Path()
    for file, _ in found:
        opened = open_model(
            str(file),
            device=device,
            workers=workers,
            batch_size=batch_size,
            flips=tta is Tta.flips,
            engine=engine and engine.value,
            precision=precision and precision.value,
        )
        manifest = opened.manifest(data, "fx evaluate")
        rows = _rows(opened, manifest, split)
        said, told = _said(opened, manifest, rows, split)
        result = {
            **opened.origin(),
            "evaluated": provenance.now(),
            "evaluated_manifest": str(manifest.file),
            "evaluated_manifest_sha256": manifest.digest,
            "split": split,
            "tta": tta.value,
            "n_failed": len(rows) - len(said.paths),
            **_look(opened, manifest, rows, split),
            **_report(opened, rows, said, split, by or [], study, own_data=data is None),
        }
        results.append(result)
        measured.append(said)
        plain = opened.is_final and names[opened.name] == 1
        folder = (out / (opened.name if plain else opened.unique_name) if len(found) > 1 else out) if out else None
        predictions = _write(opened, manifest, folder, result, told, own_data=data is None)
        total += len(rows)
        if result["n_failed"]:
            failed, failed_in = failed + result["n_failed"], predictions
    comparisons = _compare(results, measured, primary=not exploratory) if len(results) > 1 else []
    if json:
        for record in [*results, *({"comparison": each} for each in comparisons)]:
            console.record(record)
    else:
        tables.show(results, comparisons, split)
    if failed:
        raise SomeRowsFailed(failed, total, failed_in)


def _rows(opened: Opened, manifest: Manifest, split: str) -> list[Row]:
    return [row for row in manifest.rows if row.split != "test"] if split == OOF else opened.part(manifest, split)


def _said(opened: Opened, manifest: Manifest, rows: list[Row], split: str) -> tuple[Labelled, list[LabelledRow]]:
    from fxcli.inference.measured import measure, out_of_fold

    if split != OOF:
        return measure(opened, manifest, rows)
    if opened.run is None:
        raise UsageError(f"{opened.file} lies in no run, and out-of-fold answers are kept in runs")
    said = out_of_fold(opened.run)
    return said, list(said.rows(opened.model.classes))


def _look(opened: Opened, manifest: Manifest, rows: list[Row], split: str) -> dict[str, Any]:
    from fxcli.inference.measured import look_at

    found = look_at(opened, manifest, rows) if split == "test" else None
    if found is None:
        return {}
    console.note(f"{found.told()} ({manifest.root / 'test_looks.jsonl'})")
    return {"look": found.number, "models_that_looked": found.models}


def _report(
    opened: Opened,
    rows: list[Row],
    said: Labelled,
    split: str,
    by: Sequence[str],
    study: str | None,
    *,
    own_data: bool,
) -> dict[str, Any]:
    from fxcli.evaluation.predictions import notice, of_studies
    from fxcli.evaluation.report import contradicted, report

    row_of = {row.path: row for row in rows}
    if study is not None:
        said = of_studies(said, [row_of[path].column(study) for path in said.paths])
        columns: dict[str, list[str]] = {}
        if by:
            raise UsageError("--by and --study do not go together: a study has no value of its own")
    else:
        leaked = [row.leaked for row in rows]
        wanted = dict.fromkeys([*(["leaked"] if len(set(leaked)) > 1 else []), *by])
        columns = {name: [row_of[path].column(name) for path in said.paths] for name in wanted}
    unseen = split == "test" or (split != OOF and not own_data)
    classes, negative = opened.model.classes, opened.model.info.get("negative_class")
    found = report(said, classes, opened.uncertainty, by=columns, unseen=unseen, negative=negative)
    if split == OOF:
        found["contradicted"] = contradicted(said, classes, opened.uncertainty)
    return {**found, "unit": "picture" if study is None else study, "notice": notice(opened.model.info)}


def _write(
    opened: Opened,
    manifest: Manifest,
    out: Path | None,
    result: dict[str, Any],
    told: list[LabelledRow],
    *,
    own_data: bool,
) -> Path:
    """Writes figures, predictions, and where there are any the labels to look at again; returns the predictions."""
    from fxcli.evaluation.predictions import labelled_csv

    name = result["split"] + ("-flips" if result["tta"] == "flips" else "")
    if result["unit"] != "picture":
        name += f"-by-{''.join(c if c.isalnum() else '_' for c in result['unit'])}"
    if (result["engine"], result["precision"]) != ("torch", "fp32"):
        name += f"-{result['engine']}-{result['precision']}"
    base = out or (opened.run.path if opened.run else Path("evaluations") / opened.unique_name)
    if base == (opened.run and opened.run.path) and not opened.is_final:
        # A checkpoint's figures beside those of the run's own model.
        name += f"-model-{opened.digest[:8]}"
    if not own_data:
        name += f"-{result['evaluated_manifest_sha256'][:8]}"
    for folder in ("evaluation", "predictions"):
        (base / folder).mkdir(parents=True, exist_ok=True)
    write_json(base / "evaluation" / f"{name}.json", result)
    predictions = base / "predictions" / f"{name}.csv"
    if result["split"] != OOF or out:
        text = labelled_csv(told, opened.model.classes, opened.model.info, temperature=result["temperature"])
        write_text(predictions, text)
    console.note(f"wrote {base / 'evaluation' / name}.json and {predictions}")
    if contradicted := result.get("contradicted"):
        from fxcli.data import label_page

        page = base / "evaluation" / f"{name}-labels.html"
        label_page.write(page, opened.name, manifest, contradicted)
        console.note(f"labels to look at again, with their pictures: {page}")
    return predictions


def _compare(results: list[dict[str, Any]], measured: list[Labelled], *, primary: bool) -> list[dict[str, Any]]:
    """What each model gains over the first, on the pictures that both could read.

    Raises:
        UsageError: They were not measured on the same pictures.
    """
    from fxcli.evaluation.comparison import METRICS, compare_models

    first, found = measured[0], []
    place = {path: index for index, path in enumerate(first.paths)}
    for number, said in enumerate(measured[1:], 1):
        both = [index for index, path in enumerate(said.paths) if path in place]
        ours, theirs = said.chosen(both), first.chosen([place[said.paths[index]] for index in both])
        is_same = len(both) > 0 and list(ours.targets) == list(theirs.targets)
        if not is_same or ours.logits.shape[2] != theirs.logits.shape[2]:
            console.warn(f"{results[number]['model']} was measured on other pictures or classes: it is not compared")
            continue
        for metric in METRICS:
            compared = compare_models(
                list(theirs.logits / results[0]["temperature"]),
                list(ours.logits / results[number]["temperature"]),
                ours.targets,
                ours.groups,
                metric=metric,
                names=(results[0]["model"], results[number]["model"]),
                primary=primary and number == 1 and metric == "accuracy",
            )
            found.append(compared.to_mapping())
    return found
