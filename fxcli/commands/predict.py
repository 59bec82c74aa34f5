"""`fx predict`: pictures → a table of classes, and heat maps."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import typer

from fxcli.commands.options import (
    BatchSize,
    Debug,
    Device,
    Engine,
    Json,
    Model,
    Out,
    Paths,
    PathStyle,
    Precision,
    Quiet,
    Workers,
)
from fxcli.commands.startup import import_torch
from fxcli.console import console
from fxcli.errors import SomeRowsFailed, UsageError
from fxcli.run.files import replacing

if TYPE_CHECKING:
    from fxcli.data.paths import Shown
    from fxcli.evaluation.predictions import PredictionTable
    from fxcli.inference.pipeline import Answer
    from fxcli.inference.verdict import Judge


def predict(
    paths: Annotated[
        list[str],
        typer.Argument(metavar="PATH…", help="Folders (searched below), files, or - for a list on stdin."),
    ],
    model: Model = None,
    cam: Annotated[
        Path | None, typer.Option("--cam", metavar="DIR", help="Write a heat map of each answer here.")
    ] = None,
    out: Out = None,
    sets: Annotated[
        bool, typer.Option("--sets", help="Add prediction sets, which hold the true class with a stated probability.")
    ] = False,
    abstain: Annotated[
        float | None,
        typer.Option(
            "--abstain", metavar="ERROR", min=0, max=1, help="Answer only where errors stay below this share."
        ),
    ] = None,
    gate: Annotated[
        str | None,
        typer.Option("--gate", metavar="RUN_OR_FILE", help="Ask this model first whether there is a fracture at all."),
    ] = None,
    engine: Engine = None,
    precision: Precision = None,
    names: Paths = PathStyle.given,
    draft: Annotated[
        bool,
        typer.Option("--draft/--no-draft", help="Decode large JPEGs at a fraction of their size, if that is enough."),
    ] = True,
    device: Device = None,
    workers: Workers = None,
    batch_size: BatchSize = None,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Says the fracture type of every picture: CSV on stdout (JSON Lines with --json), or in --out DIR.

    Without --model it takes the last finished training here, and says on stderr which one. A picture that cannot
    be read is a row with status=error and a reason, and so is a line of stdin that names no file; the exit code is
    then 9. What is odd about a picture that is answered all the same (the first of several in one file, in colour,
    blank) is its reason, too.

    It runs as fast as it may: in bf16 where the processor has it and the model's validation pictures got the same
    answers, else in fp32. --model also takes a file that fx export wrote.

    A model that was trained in folds knows its own errors: its probabilities are calibrated, unlike_training marks
    pictures unlike those it was trained on, and --sets and --abstain are possible. --gate takes a model whose recipe
    names a negative_class; what it sees no fracture on gets status=no_fracture_suspected.

    Example: fx predict folder/ --cam out/

    Example: fx predict folder/ --model final --sets --abstain 0.3 --gate runs/fracatlas-20260101T120000Z-1a2b

    Example: find . -name '*.png' | fx predict - --model runs/final-20260101T120000Z-1a2b --json
    """
    console.configure(json=json, quiet=quiet, debug=debug)
    import_torch()
    from fxcli.data import scan
    from fxcli.data.paths import Shown
    from fxcli.evaluation.predictions import PredictionTable
    from fxcli.evaluation.table import output_names
    from fxcli.inference.opened import open_model
    from fxcli.inference.verdict import Judge

    open_one = partial(
        open_model,
        device=device,
        workers=workers,
        batch_size=batch_size,
        engine=engine and engine.value,
        precision=precision and precision.value,
        fast=True,
        draft=draft,
    )
    opened = open_one(model)
    judge = Judge(opened, open_one(gate) if gate else None, sets=sets, abstain=abstain)
    files: list[Path] = []
    for path in paths:
        listed = path == "-"
        files += scan.pictures(_listed() if listed else [Path(path)], keep_absent=listed)
    table = PredictionTable(opened.model.classes, opened.model.info, extra=judge.columns)
    judge.ask_gate(files)
    shown = Shown.of(names.value, files)
    told = _drawing(judge, cam, output_names(files, shown)) if cam else judge.verdict
    verdicts = console.progress(opened.pipeline.map(told, files), total=len(files), what="predict")
    with _target(out, json=json) as target:
        failed = _write_rows(target, table, verdicts, shown, json=json)
    where = str(out / _file_name(json)) if out else "the output"
    console.note(f"{len(files)} pictures" + (f", heat maps in {cam}" if cam else "") + (f", {where}" if out else ""))
    console.note(table.notice)
    if failed:
        raise SomeRowsFailed(failed, len(files), where)


def _write_rows(
    target: TextIO, table: PredictionTable, verdicts: Iterable[dict[str, Any]], shown: Shown, *, json: bool
) -> int:
    """Writes a row for each verdict as it comes; how many are errors."""
    from fxcli.data.radiograph import Caution, told
    from fxcli.evaluation.table import csv_line, path_cell

    failed, cautions = 0, Counter[Caution]()
    if not json:
        target.write(csv_line(table.columns) + "\n")
    for verdict in verdicts:
        cautions.update(verdict.pop("cautions"))
        record = table.record(path_cell(shown(verdict.pop("path"))), **verdict)
        failed += record["status"] == "error"
        target.write(_json_line(record) if json else csv_line(table.cells(record)) + "\n")
    for line in told(cautions):
        console.warn(line)
    return failed


def _listed() -> list[Path]:
    """The lines of stdin."""
    lines = [line.rstrip("\n") for line in sys.stdin]
    if not any(lines):
        raise UsageError("no path on stdin", hint="find DIR -name '*.jpg' | fx predict -")
    return [Path(line) for line in lines if line]


@contextmanager
def _target(out: Path | None, *, json: bool) -> Iterator[TextIO]:
    """Where rows go: stdout, or a file that gets its name when it is complete."""
    if out is None:
        yield sys.stdout
        sys.stdout.flush()
        return
    out.mkdir(parents=True, exist_ok=True)
    with (
        replacing(out / _file_name(json)) as part,
        part.open("w", encoding="utf-8", errors="backslashreplace", newline="") as handle,
    ):
        yield handle


def _file_name(json: bool) -> str:
    return "predictions.jsonl" if json else "predictions.csv"


def _json_line(record: dict[str, object]) -> str:
    import json

    return json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n"


def _drawing(judge: Judge, cam: Path, names: Sequence[Path]) -> Callable[[Answer], dict[str, Any]]:
    """Tells and draws an answer on the thread that it was computed on; what is not answered is not drawn, either."""
    from fxcli.explain.draw import draw_answer

    def draw(answer: Answer) -> dict[str, Any]:
        verdict = judge.verdict(answer)
        if verdict["status"] == "ok":
            target = cam / f"{names[answer.index]}.png"
            target.parent.mkdir(parents=True, exist_ok=True)
            draw_answer(judge.opened, answer).save_overlay(target)
        return verdict

    return draw
