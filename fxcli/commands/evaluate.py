"""`fx evaluate`: models on a labelled part → figures with intervals, and what one gains over another."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fxcli.commands import completion
from fxcli.commands.evaluated import (
    check_places,
    columns_of,
    folder_of,
    noted_look,
    told_apart,
    warn_of_learnt,
    write_result,
)
from fxcli.commands.options import BatchSize, Debug, Device, Engine, Json, Out, Parquet, Precision, Quiet, Workers
from fxcli.commands.startup import import_torch
from fxcli.console import console
from fxcli.data.parquet import beside, forget, require
from fxcli.errors import SomeRowsFailed, UsageError
from fxcli.run import provenance
from fxcli.run.files import write_text

if TYPE_CHECKING:
    from fxcli.data.manifest import Manifest, Row
    from fxcli.evaluation.metadata import Metadata
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
            metavar="RUN_OR_FILE…",
            help="Runs, model files, or names of recipes; default: the last finished run.",
            autocompletion=completion.models,
        ),
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(
            "--model",
            metavar="RUN_OR_FILE",
            help="The same as an option, as in fx predict; repeatable.",
            autocompletion=completion.models,
        ),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option("--data", metavar="MANIFEST", help="A manifest, .csv or .parquet; default: the run's own."),
    ] = None,
    split: Annotated[
        str, typer.Option("--split", help="train, val, calibration, test, or oof: out-of-fold, of a run with --folds.")
    ] = "test",
    by: Annotated[
        list[str] | None,
        typer.Option(
            "--by",
            metavar="COLUMN",
            help="Figures for each value of a column of the manifest, or of several (hardware+leg); repeatable.",
        ),
    ] = None,
    study: Annotated[
        str | None,
        typer.Option("--study", metavar="COLUMN", help="Average the pictures of each study, and measure studies."),
    ] = None,
    named: Annotated[
        bool,
        typer.Option("--named-beforehand", help="The first comparison was named before anybody looked, and decides."),
    ] = False,
    tta: Annotated[Tta, typer.Option("--tta", help="flips: mean over the picture and its mirror.")] = Tta.none,
    out: Out = None,
    parquet: Parquet = False,
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
    the same pictures. All of that is exploratory, but for the second's accuracy with --named-beforehand. A look at a
    test part is noted in test_looks.jsonl beside the manifest, and counted. Test pictures with a twin in training are
    measured apart.

    Writes evaluation/SPLIT.json and predictions/SPLIT.csv (with logits) into the run; for a model file outside any
    run into ./evaluations/NAME-SHA256/; or into --out DIR, for several models each into a folder of its own. A picture
    that cannot be read is a row with status=error and is not measured; the exit code is then 9.

    Detectors (task: detect) are measured on the pictures whose boxes are known: AP50 and AP50–95 as COCO has them,
    FROC's sensitivity at 0.5, 1 and 2 false positives a picture, and AUROC of the surest box: is there any at all?

    Example: fx evaluate runs/final-20260101T120000Z-1a2b --by body_part

    Example: fx evaluate final best --split oof

    Example: fx evaluate detect --split val --by hardware
    """
    console.configure(json=json, quiet=quiet, debug=debug)
    asked = Asked(
        data=data, split=split, by=tuple(by or ()), study=study, tta=tta.value, computed=bool(engine or precision)
    )
    asked.check()
    if parquet:
        require()
    import_torch()
    from fxcli.commands import tables
    from fxcli.commands.evaluate_boxes import evaluate_boxes
    from fxcli.evaluation.table import kind_of
    from fxcli.inference.detected import is_detector, open_detector
    from fxcli.inference.measured import out_of_fold
    from fxcli.inference.opened import open_model
    from fxcli.run.directory import find_model

    # All are looked up first: a mistyped name must not end what took an hour.
    wanted: list[str | None] = [*(models or []), *(model or [])]
    found = [find_model(name) for name in wanted or [None]]
    if named and len(found) < 2:
        raise UsageError("--named-beforehand is said of two models that are compared")
    if any(is_detector(file) for file, _ in found):
        if not all(is_detector(file) for file, _ in found):
            raise UsageError("detectors and classifiers are measured apart")
        if split == OOF or study is not None or tta is not Tta.none or engine or precision or named:
            without = "--split oof, --study, --tta, --engine, --precision and --named-beforehand"
            raise UsageError(f"a detector is measured without {without}")
        place = partial(open_detector, device=device, workers=workers, batch_size=batch_size)
        check_places(found, out)
        detectors = [place(*each) for each in found]
        evaluate_boxes(detectors, data=data, split=split, by=by or (), out=out, json=json, parquet=parquet)
        return
    for file, run in found if split == OOF else ():
        if run is None:
            raise UsageError(f"{file} lies in no run, and out-of-fold answers are kept in runs")
        out_of_fold(run)
    check_places(found, out)
    done: list[Evaluated] = []
    names = [(run.path if run else file).name for file, run in found]
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
        evaluated = _evaluated(opened, asked)
        evaluated.written = _write(evaluated, folder_of(opened, names, out), own_data=data is None)
        if parquet:
            beside(evaluated.written, kind_of)
        done.append(evaluated)
    called = told_apart([each.opened for each in done])
    comparisons = _compared(done, called, primary=named)
    if json:
        for record in [*(each.result for each in done), *({"comparison": each} for each in comparisons)]:
            console.record(record)
    else:
        tables.show([each.result for each in done], called, comparisons, split)
    if bad := [each for each in done if each.result["n_failed"]]:
        failed = sum(each.result["n_failed"] for each in bad)
        raise SomeRowsFailed(failed, sum(len(each.rows) for each in done), bad[-1].written)


@dataclass(frozen=True)
class Asked:
    """What is to be measured: the options of those names; `computed` is whether one of --engine and --precision is."""

    data: Path | None
    split: str
    by: tuple[str, ...]
    study: str | None
    tta: str
    computed: bool

    def check(self) -> None:
        """Whether the options go together.

        Raises:
            UsageError: They do not.
        """
        from fxcli.data.manifest import SPLITS

        if self.split not in (*SPLITS, OOF):
            raise UsageError(f"there is no split {self.split!r}", hint=f"one of {', '.join((*SPLITS, OOF))}")
        if self.split == OOF and (self.data or self.study is not None or self.tta != Tta.none):
            raise UsageError("--split oof is what the run kept: it goes with neither --data, --study nor --tta")
        if self.split == OOF and self.computed:
            raise UsageError("--split oof is what the run kept: it goes with neither --engine nor --precision")
        if self.by and self.study is not None:
            raise UsageError("--by and --study do not go together: a study has no value of its own")


@dataclass
class Evaluated:
    """A model that was measured.

    Attributes:
        opened: It.
        manifest: Of the pictures.
        rows: Of them, all that were asked for.
        said: What the model said, by picture or by study.
        told: The rows of the predictions.
        result: For people and programs.
        written: The file of the predictions.
    """

    opened: Opened
    manifest: Manifest
    rows: list[Row]
    said: Labelled
    told: list[LabelledRow]
    result: dict[str, Any]
    written: Path = Path()


def _evaluated(opened: Opened, asked: Asked) -> Evaluated:
    from fxcli.evaluation.predictions import of_studies
    from fxcli.inference.measured import measure, out_of_fold

    manifest = opened.manifest(asked.data, "fx evaluate")
    rows = _rows(opened, manifest, asked)
    # Of every picture before any is measured: a mistyped name must not cost a look.
    columns = {name: {row.path: row.column(name) for row in rows} for name in columns_of(rows, asked.by)}
    studies = {row.path: _study(row, asked.study) for row in rows} if asked.study is not None else {}
    if asked.split == OOF and opened.run is not None:
        said = out_of_fold(opened.run)
        told = list(said.rows(opened.model.classes))
    else:
        said, told = measure(opened, manifest, rows)
    n_failed = len(rows) - len(said.paths)
    values = {name: [column[path] for path in said.paths] for name, column in columns.items()}
    if studies:
        named = [studies[path] for path in said.paths]
        said = of_studies(said, named)
        # --by does not go with --study: the column is `leaked`, and one such picture makes such a study.
        for name, each in values.items():
            leaked = {study for study, value in zip(named, each, strict=True) if value == "yes"}
            values[name] = ["yes" if study in leaked else "no" for study in said.paths]
    metadata = _metadata(opened, manifest, values, asked)
    result = {
        **opened.origin(),
        "evaluated": provenance.now(),
        "evaluated_manifest": str(manifest.file),
        "evaluated_manifest_sha256": manifest.digest,
        "split": asked.split,
        "tta": asked.tta,
        "unit": "picture" if asked.study is None else asked.study,
        "n_failed": n_failed,
        **_report(opened, manifest, said, values, metadata, asked),
        **(noted_look(opened, manifest, rows) if asked.split == "test" else {}),
    }
    return Evaluated(opened, manifest, rows, said, told, result)


def _study(row: Row, column: str) -> str:
    """The study of a picture: one of its own where it, or of "a+b" a part of it, is not known."""
    return row.column(column) if all(map(row.column, row.parts(column))) else f"alone: {row.path}"


def _rows(opened: Opened, manifest: Manifest, asked: Asked) -> list[Row]:
    """The pictures that are asked for.

    Raises:
        UsageError: The model's parts learnt from them, and what is known of pictures held out is elsewhere.
    """
    if asked.split == OOF:
        return [row for row in manifest.rows if row.split != "test"]
    is_own = manifest.digest == opened.model.info.get("manifest_sha256")
    if is_own and opened.is_in_folds and asked.split != "test":
        raise UsageError(
            f"the parts of this run learnt from its {asked.split} pictures",
            hint="--split oof: what each part says of those that it held out",
        )
    rows = opened.part(manifest, asked.split)
    if asked.data is not None:
        warn_of_learnt(opened, manifest, rows)
    return rows


def _metadata(opened: Opened, manifest: Manifest, values: dict[str, list[str]], asked: Asked) -> Metadata | None:
    """What the columns that were asked for tell of a finding, learnt from training pictures; None: it is not asked."""
    from fxcli.inference.measured import metadata_of

    negative = opened.model.info.get("negative_class")
    if negative is None or asked.split in (OOF, "train"):
        return None
    learnt = manifest.part("train")
    return metadata_of(learnt, [row.label != negative for row in learnt], values)


def _report(
    opened: Opened,
    manifest: Manifest,
    said: Labelled,
    by: dict[str, list[str]],
    metadata: Metadata | None,
    asked: Asked,
) -> dict[str, Any]:
    from fxcli.evaluation.predictions import notice
    from fxcli.evaluation.report import contradicted, report

    unseen = asked.split == "test" or (
        asked.split != OOF and manifest.digest != opened.model.info.get("manifest_sha256")
    )
    classes, negative = opened.model.classes, opened.model.info.get("negative_class")
    found = report(said, classes, opened.uncertainty, by=by, unseen=unseen, negative=negative, metadata=metadata)
    if asked.split == OOF:
        found["contradicted"] = contradicted(said, classes)
    return {**found, "notice": notice(opened.model.info)}


def _write(evaluated: Evaluated, out: Path | None, *, own_data: bool) -> Path:
    """Writes figures, predictions, and where there are any the labels to look at again; returns the predictions."""
    from fxcli.evaluation.predictions import labelled_csv

    opened, result = evaluated.opened, evaluated.result
    name = result["split"] + ("-flips" if result["tta"] == "flips" else "")
    if result["unit"] != "picture":
        name += f"-by-{''.join(c if c.isalnum() else '_' for c in result['unit'])}"
    if (result["engine"], result["precision"]) != ("torch", "fp32"):
        name += f"-{result['engine']}-{result['precision']}"
    figures, predictions = write_result(opened, name, result, out, own_data=own_data)
    if result["split"] == OOF and opened.run is not None and not out:
        predictions = opened.run.oof_file
    else:
        classes, info = opened.model.classes, opened.model.info
        forget(predictions)
        write_text(predictions, labelled_csv(evaluated.told, classes, info, temperature=result["temperature"]))
    console.note(f"wrote {figures}; predictions are in {predictions}")
    if contradicted := result.get("contradicted"):
        from fxcli.data import label_page

        page = figures.with_name(f"{figures.stem}-labels.html")
        label_page.write(page, opened.name, evaluated.manifest, contradicted)
        console.note(f"labels to look at again, with their pictures: {page}")
    return predictions


def _compared(done: list[Evaluated], called: list[str], *, primary: bool) -> list[dict[str, Any]]:
    """What each model gains over the first, on the pictures that both could read; all its networks answer together."""
    from fxcli.evaluation.comparison import gains

    found: list[dict[str, Any]] = []
    for number, (each, name) in enumerate(zip(done[1:], called[1:], strict=True), 1):
        shared = done[0].said.shared(each.said)
        if shared is None or not _are_alike(done[0], each):
            console.warn(f"{name} was measured on other pictures or classes: it is not compared")
            continue
        first, other = shared
        if len({len(said.logits) for said in shared}) > 1:
            seeds = " and ".join(str(len(said.logits)) for said in shared)
            console.warn(f"{seeds} seeds answer together: the comparison is of that, not of one training with another")
        if len(first.paths) < max(len(done[0].said.paths), len(each.said.paths)):
            console.warn(f"{name} is compared on the {len(first.paths)} pictures alone that both were measured on")
        compared = gains(
            first,
            other,
            temperatures=(done[0].result["temperature"], each.result["temperature"]),
            names=(called[0], name),
            primary=primary and number == 1,
            unit="pictures" if each.result["unit"] == "picture" else "studies",
            looks=sum({one.opened.digest: one.result.get("looks_before", 0) for one in (each, done[0])}.values()),
        )
        found += [one.to_mapping() for one in compared]
    return found


def _are_alike(a: Evaluated, b: Evaluated) -> bool:
    """Whether the classes are the same, and pictures of one path are: each may have come from a manifest of its own.

    The name of a study says nothing of its pictures: there, all must be the same.
    """
    from fxcli.data.manifest import alike

    paths = [{row.path for row in each.rows} for each in (a, b)]
    is_same = alike(a.rows, b.rows) and (a.result["unit"] == "picture" or paths[0] == paths[1])
    return is_same and a.opened.model.classes == b.opened.model.classes
