"""`fx predict`: pictures → a table of classes, and heat maps."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fxcli.commands.options import (
    BatchSize,
    Debug,
    Device,
    Engine,
    EngineName,
    Json,
    Model,
    Out,
    Paths,
    Precision,
    Quiet,
    Workers,
)
from fxcli.commands.startup import import_torch
from fxcli.console import console
from fxcli.data.paths import PathStyle
from fxcli.errors import SomeRowsFailed, UnreadableImage, UsageError

if TYPE_CHECKING:
    from fxcli.data.paths import Shown
    from fxcli.evaluation.predictions import PredictionTable
    from fxcli.inference.detected import BoxesBeside, OpenedDetector
    from fxcli.inference.features import FeatureFile
    from fxcli.inference.opened import Opened
    from fxcli.inference.pipeline import Answer
    from fxcli.inference.rows import Rows
    from fxcli.inference.verdict import Judge
    from fxcli.report.gallery import Gallery


def predict(
    paths: Annotated[
        list[str],
        typer.Argument(metavar="PATH…", help="Folders (searched below), files, or - for a list on stdin."),
    ],
    model: Model = None,
    cam: Annotated[
        Path | None, typer.Option("--cam", metavar="DIR", help="Write a heat map of each answer here.")
    ] = None,
    boxes: Annotated[
        Path | None,
        typer.Option("--boxes", metavar="DIR", help="Write the boxes of a detector here: outlines, and COCO JSON."),
    ] = None,
    detector: Annotated[
        str | None,
        typer.Option("--detector", metavar="RUN_OR_FILE", help="Let this detector look, too: type and place at once."),
    ] = None,
    score: Annotated[
        float | None,
        typer.Option("--score", min=0, max=1, help="Least score of a box; default: the detector's own (see below)."),
    ] = None,
    features: Annotated[
        Path | None,
        typer.Option(
            "--features", metavar="DIR", help="Write the features of each picture, and which are alike, here."
        ),
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option(
            "--report", metavar="FILE", help="Write a page to look at: sortable, with pictures and heat maps."
        ),
    ] = None,
    out: Out = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with what a stopped prediction left in --out DIR.")
    ] = False,
    overwrite: Annotated[
        bool,
        typer.Option("--overwrite", help="Replace what is in --out DIR and --features DIR, and the file of --report."),
    ] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Stop at the first picture that cannot be read.")] = False,
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
    names: Paths = PathStyle.GIVEN,
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
    blank) is its reason, too. Lines of stdin may end with zero bytes, as those of find -print0 do.

    With --out DIR the file grows as DIR/predictions.csv.part and gets its name when it is complete. Whatever stopped
    it, the same command with --resume does only what is missing: pictures without a row or a heat map, pictures that
    were changed since, and errors. Rows that are there already are replaced with --overwrite alone.

    It runs as fast as it may: in bf16 where the processor has it and the model's validation pictures got the same
    answers, else in fp32. --model also takes a file that fx export wrote.

    A model that was trained in folds knows its own errors: its probabilities are calibrated, unlike_training marks
    pictures unlike those it was trained on, and --sets and --abstain are possible. --gate takes a model whose recipe
    names a negative_class; what it sees no fracture on gets status=no_fracture_suspected.

    A detector (task: detect) as --model, or beside a classifier as --detector, tells boxes in pixels of the original,
    from the score on at which its validation part had one false box on every other picture. --boxes DIR gets outlines
    and found.coco.json; with --detector the outlines lie over the heat maps of --cam, too.

    --features DIR gets features.npy, the pooled features that the head sees (float32, one row a picture; those of
    several networks side by side; NaN where a picture cannot be read), paths.csv, which names the rows, and
    neighbours.png: some of the pictures, each with those most like it. A pretraining has no classes, and rows name
    none.

    --report FILE.html is one file with a row for each picture, up to 5,000: pictures, their heat maps (while the mouse
    or the keyboard's focus is on them), and all that rows tell, to be sorted and filtered. It loads nothing.

    Example: fx predict folder/ --cam out/

    Example: fx predict folder/ --model final --sets --abstain 0.3 --gate runs/fracatlas-20260101T120000Z-1a2b

    Example: fx predict folder/ --model detect --boxes out/

    Example: fx predict folder/ --model final --detector detect --cam out/

    Example: fx predict folder/ --model runs/pretrain_simclr-20260101T120000Z-1a2b --features learnt/

    Example: fx predict folder/ --report gallery.html

    Example: fx predict folder/ --out answers/ --resume

    Example: find . -name '*.png' | fx predict - --model runs/final-20260101T120000Z-1a2b --json
    """
    console.configure(json=json, quiet=quiet, debug=debug)
    _check_places(out, report, features, resume=resume, overwrite=overwrite)
    if features and engine not in (None, EngineName.torch):
        raise UsageError(f"--features needs torch, not {engine}")
    import_torch()
    from fxcli.commands.locate import Wanted, locate
    from fxcli.data.names import path_cell
    from fxcli.data.paths import Shown
    from fxcli.evaluation.lines import Lines
    from fxcli.evaluation.predictions import PredictionTable
    from fxcli.evaluation.table import output_names
    from fxcli.inference import features as described
    from fxcli.inference import rows as output
    from fxcli.inference.detected import is_detector, open_detector
    from fxcli.inference.opened import open_model
    from fxcli.inference.verdict import Judge
    from fxcli.report.gallery import Gallery
    from fxcli.run.directory import find_model

    place = partial(open_detector, device=device, workers=workers, batch_size=batch_size)
    file, run = find_model(model)
    if is_detector(file):
        if cam or sets or abstain is not None or gate or detector or engine or precision or features:
            given = "--cam, --sets, --abstain, --gate, --detector, --engine, --precision and --features"
            raise UsageError(
                f"{file} is a detector: {given} are for classifiers", hint="--detector beside a classifier"
            )
        wanted = Wanted(boxes, out, score, resume, overwrite, strict, json)
        files = _files(paths)
        locate(place(file, run), files, Shown.of(names, files), wanted, report)
        return
    if features:
        described.check(features, overwrite=overwrite)
    if boxes:
        raise UsageError(
            f"--boxes is for a detector alone, and {file} is a classifier", hint="--detector with --cam DIR"
        )
    if score is not None and detector is None:
        raise UsageError("--score is for a detector", hint="--detector RUN_OR_FILE")
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
    opened = open_one(str(file), headless=features is not None)
    for_classes = bool(cam or sets or abstain is not None or gate or detector or report)
    width = _features_of(opened, for_classes=for_classes) if features else 0
    where = _beside(place, detector, score) if detector else None
    judge = Judge(opened, open_one(gate) if gate else None, sets=sets, abstain=abstain, boxes=where)
    files = _files(paths)
    if cam or features:
        from fxcli.explain.draw import check_places, pictures_beside

        for folder in filter(None, (cam, features)):
            files = pictures_beside(folder, files)
        check_places([features / described.SHEET] if features else [], files)
    shown = Shown.of(names, files)
    maps = _maps(cam, files, shown) if cam else []
    cells = [path_cell(shown(path)) for path in files] if features else []
    gallery = Gallery.begun(report, len(files), opened.model.classes, overwrite=overwrite) if report else None
    table = PredictionTable(opened.model.classes, opened.model.info, extra=judge.columns)
    lines = Lines(table, json=json)
    made_with = judge.made_with() | {"paths": names.value}
    with (
        output.going_to(out, lines, made_with, resume=resume, overwrite=overwrite) as rows,
        described.going_to(features, cells, width, beside=out) as kept,
    ):
        _predict(judge, files, maps, shown, table, rows, kept, gallery, strict=strict, resume=resume)
    if features and kept:
        from fxcli.explain.neighbours import save_sheet

        save_sheet(features, kept.readable, files, output_names(files, shown), opened)
    if gallery:
        gallery.write(table.notice, opened.described)
    told = str(out / lines.file_name) if out else "the output"
    beside = [f"{what} in {folder}" for what, folder in (("heat maps", cam), ("features", features)) if folder]
    console.note(", ".join([f"{len(files)} pictures", *beside, *([told] if out else [])]))
    console.note(table.notice)
    if rows.failed:
        raise SomeRowsFailed(rows.failed, len(files), told)


def _predict(
    judge: Judge,
    files: Sequence[Path],
    maps: Sequence[Path],
    shown: Shown,
    table: PredictionTable,
    rows: Rows,
    kept: FeatureFile | None,
    gallery: Gallery | None,
    *,
    strict: bool,
    resume: bool,
) -> None:
    """Writes a row for each picture that has none, and its features where they are kept."""
    from fxcli.data.names import path_cell
    from fxcli.data.radiograph import Caution, warn_of
    from fxcli.explain.png import sweep

    def called(path: Path) -> str:
        return path_cell(shown(path))

    cautions: list[Caution] = []
    todo = rows.missing(files, called, lambda index: not maps or maps[index].is_file())
    chosen = [files[index] for index in todo]
    if resume and maps:
        sweep([maps[index] for index in todo])
    judge.ask_gate(chosen)
    drawing = _drawing(judge, [maps[index] for index in todo] if maps else [], with_views=gallery is not None)
    tell = drawing if maps or gallery else judge.verdict
    verdicts = judge.opened.pipeline.map(lambda answer: (tell(answer), answer.features), chosen)
    for verdict, features in console.progress(
        verdicts, total=len(files), done=len(files) - len(chosen), what="predict"
    ):
        path = verdict.pop("path")
        cautions += verdict.pop("cautions")
        views = verdict.pop("views", None)
        record = table.record(called(path), **verdict)
        rows.write(record)
        if kept:
            kept.add(features)
        if gallery:
            gallery.add(record, views)
        if strict and verdict["status"] == "error":
            raise UnreadableImage(path, verdict["reason"])
    rows.finish()
    warn_of(cautions)


def _maps(cam: Path, files: Sequence[Path], shown: Shown) -> list[Path]:
    """Where the heat map of each picture goes, which is called as the picture is shown."""
    from fxcli.evaluation.table import output_names
    from fxcli.explain.draw import check_places

    maps = [cam / f"{name}.png" for name in output_names(files, shown)]
    check_places(maps, files)
    return maps


def _features_of(opened: Opened, *, for_classes: bool) -> int:
    """How many features a picture has, of all networks of the model.

    Args:
        opened: The model.
        for_classes: Whether something is asked for that only a model with classes can give.

    Raises:
        UsageError: It is an exported one, or has no classes where they are needed.
    """
    model = opened.trained("--features")
    if for_classes and not model.classes:
        given = "--cam, --report, --sets, --abstain, --gate and --detector"
        raise UsageError(f"{opened.file} holds a pretrained backbone: {given} are for classifiers")
    return len(model.members) * model.spec.num_features


def _files(paths: Sequence[str]) -> list[Path]:
    """All pictures that were asked for."""
    from fxcli.data import scan

    files: list[Path] = []
    for path in paths:
        listed = path == "-"
        files += scan.pictures(_listed() if listed else [Path(path)], keep_absent=listed)
    return files


def _beside(place: Callable[..., OpenedDetector], detector: str, score: float | None) -> BoxesBeside:
    """The detector that looks at what a classifier answers."""
    from fxcli.inference.detected import BoxesBeside, is_detector
    from fxcli.run.directory import find_model

    file, run = find_model(detector)
    if not is_detector(file):
        raise UsageError(f"{file} is no detector", hint="fx train recipes/detect.yaml makes one")
    opened = place(file, run)
    return BoxesBeside(opened, opened.least_score(score))


def _listed() -> list[Path]:
    """The lines of stdin, in whatever bytes names have."""
    data = sys.stdin.buffer.read()
    # A name may hold a line end, but no zero byte.
    lines = data.split(b"\0") if b"\0" in data else data.replace(b"\r\n", b"\n").split(b"\n")
    if not any(lines):
        raise UsageError("no path on stdin", hint="find DIR -name '*.jpg' | fx predict -")
    return [Path(os.fsdecode(line)) for line in lines if line]


def _check_places(
    out: Path | None, report: Path | None, features: Path | None, *, resume: bool, overwrite: bool
) -> None:
    if resume and (out is None or overwrite):
        raise UsageError("--resume goes with --out DIR, and without --overwrite", hint="rows on stdout are not kept")
    if overwrite and out is None and report is None and features is None:
        what = "--overwrite goes with --out DIR, --features DIR or --report FILE"
        raise UsageError(what, hint="rows on stdout are not kept")
    if resume and report:
        raise UsageError("--report shows what is predicted now: it does not go with --resume")
    if resume and features:
        hint = "without --features it goes on with the rows; --overwrite begins anew with both"
        raise UsageError("--features are written in one go, and --resume cannot go on with them", hint=hint)


def _drawing(judge: Judge, maps: Sequence[Path], *, with_views: bool) -> Callable[[Answer], dict[str, Any]]:
    """Tells and draws an answer on the thread that it was computed on; what is not answered has no heat map."""
    from fxcli.explain.draw import draw_answer
    from fxcli.report.gallery import views
    from fxcli.run.files import saying

    def draw(answer: Answer) -> dict[str, Any]:
        verdict = judge.verdict(answer)
        boxes = verdict.get("boxes", ())
        made = draw_answer(judge.opened, answer) if verdict["status"] == "ok" else None
        if made and maps:
            target = maps[answer.index]
            with saying(target):
                target.parent.mkdir(parents=True, exist_ok=True)
            made.save_overlay(target, boxes)
        if with_views and answer.cleaned is not None:
            verdict["views"] = views(answer.cleaned, made.coloured if made else None, boxes)
        return verdict

    return draw
