"""`fx report`: runs → one HTML file."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from fxcli.commands import completion
from fxcli.commands.options import Debug, Json, Quiet
from fxcli.console import console
from fxcli.errors import DataError, UsageError

NAME = "report.html"


def report(
    runs: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN…",
            help="Runs, or names of recipes: the last finished run of each.",
            autocompletion=completion.models,
        ),
    ],
    pictures: Annotated[
        int,
        typer.Option(
            "--pictures",
            metavar="N",
            min=0,
            max=100,
            help="So many right and wrong answers, with heat maps or boxes; 0: none.",
        ),
    ] = 6,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE", help=f"The report; default: RUN/{NAME}. Of several runs it is needed."),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file that --out names.")] = False,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Tells of runs in one HTML file: what was run, data, curves, figures with intervals, pictures, and a model card.

    It shows what the run holds, also of one that was stopped, and says which command makes what is missing. No model is
    run on a test part: a report is no look at it. The file opens anywhere, without a network, and prints well; its
    path is told on stdout.

    Pictures are the surest answers, right and wrong, to pictures that the network had not seen: out-of-fold, or of the
    validation part once fx evaluate RUN --split val has told its answers. Of a detector they are boxes that it found,
    missed, or told where nothing is, beside the true ones. With --pictures 0 no model is run.

    Several runs are compared: recipes, curves, figures, and what each gains over the first.

    Example: fx report final

    Example: fx report baseline finetune final --out stages.html --pictures 0
    """
    console.configure(json=json, quiet=quiet, debug=debug)
    from fxcli.report import build, figures
    from fxcli.report.kept import kept
    from fxcli.run.directory import find_run
    from fxcli.run.files import check_writable, saying, write_text

    figures.require()
    found = [find_run(name) for name in dict.fromkeys(runs)]
    if len(found) > 1 and out is None:
        raise UsageError("a report of several runs needs a file of its own", hint="--out FILE.html")
    file = out or found[0].path / NAME
    if file.is_dir():
        raise UsageError(f"{file} is a folder", hint=f"--out {shlex.quote(str(file / NAME))}")
    # Its own report in a run is made anew; any other file may be somebody's.
    if file.exists() and not overwrite and (out is not None or not build.is_report(file)):
        raise DataError("this file exists", where=file, hint="--overwrite replaces it; --out names another")
    check_writable(file.parent)
    made = build.build([kept(run) for run in found], pictures)
    with saying(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        write_text(file, made.text)
    for command in made.missing:
        console.note(f"it would tell more after: {command}")
    if json:
        console.record({"report": str(file), "runs": [str(run.path) for run in found], "missing": made.missing})
    else:
        console.data(str(file))
