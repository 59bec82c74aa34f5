"""`fx predict`: pictures → a table of classes, and heat maps."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fxcli.commands import completion
from fxcli.commands.options import (
    BatchSize,
    Debug,
    Device,
    Engine,
    EngineName,
    Json,
    Model,
    Out,
    Parquet,
    Paths,
    Precision,
    Quiet,
    Where,
    Workers,
)
from fxcli.commands.outputs import Outputs
from fxcli.commands.startup import import_torch
from fxcli.console import console
from fxcli.data.paths import PathStyle
from fxcli.errors import UsageError

if TYPE_CHECKING:
    from fxcli.inference.detected import BoxesBeside, OpenedDetector


def predict(
    paths: Annotated[
        list[str],
        typer.Argument(
            metavar="PATH…", help="Folders (searched below), files, - for a list on stdin, or lists in .parquet."
        ),
    ],
    model: Model = None,
    cam: Annotated[
        Path | None, typer.Option("--cam", metavar="DIR", help="Write a heat map of each answer here.")
    ] = None,
    boxes: Annotated[
        Path | None,
        typer.Option("--boxes", metavar="DIR", help="Write the boxes that a detector finds here: outlines, COCO JSON."),
    ] = None,
    detector: Annotated[
        str | None,
        typer.Option(
            "--detector",
            metavar="RUN_OR_FILE",
            help="Let this detector look, too: type and place at once.",
            autocompletion=completion.models,
        ),
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
    parquet: Parquet = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with what a stopped prediction left in --out DIR.")
    ] = False,
    overwrite: Annotated[
        bool,
        typer.Option(
            "--overwrite",
            help="Replace what is in --out DIR and --features DIR, the COCO of --boxes, and the file of --report.",
        ),
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
        typer.Option(
            "--gate",
            metavar="RUN_OR_FILE",
            help="Ask this model first whether there is a fracture at all.",
            autocompletion=completion.models,
        ),
    ] = None,
    engine: Engine = None,
    precision: Precision = None,
    names: Paths = PathStyle.GIVEN,
    draft: Annotated[
        bool,
        typer.Option("--draft/--no-draft", help="Decode large JPEGs at a fraction of their size, if that is enough."),
    ] = True,
    on: Annotated[
        Where | None, typer.Option("--on", help="Let a cluster answer; DIR/predictions.parquet gets the rows.")
    ] = None,
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

    A PATH that ends in .parquet is a list, too: of what its column path names, as rows have it, from here; or the
    folder of several such files. --parquet with --out DIR writes DIR/predictions.parquet beside the CSV.

    --on ray lets the machines of a Ray cluster answer (RAY_ADDRESS names it, HOST:PORT or auto; without it one is
    started here, with as many cores as torch would take), --workers cores to an actor. The pictures, the model and
    --out DIR must lie where all machines see them. DIR/predictions.parquet is then a folder of files, in the order of
    the pictures; what is done stays, whatever stops it, and --resume does the rest.

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
    and found.coco.json, of either; with --detector the outlines lie over the heat maps of --cam (another folder), too.

    --features DIR gets features.npy, the pooled features that the head sees (float32, one row a picture; those of
    several networks side by side; NaN where a picture cannot be read), paths.csv, which names the rows, and
    neighbours.png: some of the pictures, each with those most like it. A pretraining has no classes, and rows name
    none.

    --report FILE.html is one file with a row for each picture, up to 5,000: pictures, their heat maps (off while the
    mouse or the keyboard's focus is on them), and all that rows tell, to be sorted and filtered. It loads nothing.

    Example: fx predict folder/ --cam out/

    Example: fx predict folder/ --model final --sets --abstain 0.4 --gate runs/fracatlas-20260101T120000Z-1a2b

    Example: fx predict folder/ --model detect --boxes out/

    Example: fx predict folder/ --model final --detector detect --cam out/ --boxes found/

    Example: fx predict folder/ --model runs/pretrain_simclr-20260101T120000Z-1a2b --features learnt/

    Example: fx predict folder/ --report gallery.html

    Example: fx predict folder/ --out answers/ --resume

    Example: fx predict list.parquet --on ray --out answers/ --resume

    Example: find . -name '*.png' | fx predict - --model runs/final-20260101T120000Z-1a2b --json
    """
    console.configure(json=json, quiet=quiet, debug=debug)
    outputs = Outputs(out, cam, boxes, features, report, resume, overwrite, strict, json, parquet, on is not None)
    outputs.check()
    if on and (detector is not None or device not in (None, "auto", "cpu")):
        raise UsageError("--on ray is for classifiers, on CPUs", hint="without --detector and --device")
    if features and engine not in (None, EngineName.torch):
        raise UsageError(f"--features needs torch, not {engine}")
    import_torch()
    from fxcli.commands.answer import answer
    from fxcli.commands.locate import locate
    from fxcli.commands.spread import spread
    from fxcli.inference.detected import is_detector, open_detector
    from fxcli.inference.features import check
    from fxcli.inference.opened import open_model
    from fxcli.inference.verdict import Judge, open_judge
    from fxcli.run.directory import find_model

    place = partial(open_detector, device=device, workers=workers, batch_size=batch_size, fast=True)
    file, run = find_model(model)
    beside = any(each is not None for each in (abstain, gate, detector))
    if is_detector(file):
        if cam or sets or beside or engine or precision or features or on:
            given = "--cam, --sets, --abstain, --gate, --detector, --engine, --precision, --features and --on"
            raise UsageError(
                f"{file} is a detector: {given} are for classifiers",
                hint="--boxes DIR draws what it finds; --detector takes it beside a classifier",
            )
        locate(place(file, run), _files(paths), names, score, outputs)
        return
    if features:
        check(features, overwrite=overwrite)
    if detector is None and (boxes or score is not None):
        given = "--boxes" if boxes else "--score"
        raise UsageError(f"{given} is for a detector, and {file} is a classifier", hint="--detector RUN_OR_FILE")
    open_one = partial(
        open_model,
        device="cpu" if on else device,
        workers=None if on else workers,
        batch_size=batch_size,
        engine=engine and engine.value,
        precision=precision and precision.value,
        fast=True,
        draft=draft,
    )
    if on:
        # Absolute: on other machines the current folder is another.
        others = [os.path.abspath(each) for each in (file, *([] if gate is None else [find_model(gate)[0]]))]
        make = partial(open_judge, open_one, *others, sets=sets, abstain=abstain)
        spread(make, _files(paths), names, workers, outputs)
        return
    opened = open_one(str(file), headless=features is not None)
    if not opened.model.classes and (cam or report or sets or beside):
        given = "--cam, --report, --sets, --abstain, --gate and --detector"
        raise UsageError(f"{opened.file} holds a pretrained backbone: {given} are for classifiers")
    where = None if detector is None else _beside(place, detector, score)
    judge = Judge(opened, None if gate is None else open_one(gate), sets=sets, abstain=abstain, boxes=where)
    answer(judge, _files(paths), names, outputs)


def _files(paths: Sequence[str]) -> list[Path]:
    """All pictures that were asked for."""
    from fxcli.data import scan
    from fxcli.data.parquet import SUFFIX, read_paths

    files: list[Path] = []
    for path in paths:
        if path == "-":
            files += scan.pictures(_listed(), keep_absent=True)
        elif Path(path).suffix.lower() == SUFFIX:
            files += scan.pictures(read_paths(Path(path)), keep_absent=True)
        else:
            files += scan.pictures([Path(path)])
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
