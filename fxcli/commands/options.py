"""The options that mean the same in every command."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from fxcli.commands import completion
from fxcli.data.paths import PathStyle


class EngineName(StrEnum):
    """What computes."""

    torch = "torch"
    openvino = "openvino"
    onnxruntime = "onnxruntime"


class PrecisionName(StrEnum):
    """In what numbers; int8 is a matter of the exported file."""

    fp32 = "fp32"
    bf16 = "bf16"


class Where(StrEnum):
    """Where it is computed, if not in this process."""

    ray = "ray"


Sets = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Override a key of the recipe; repeatable.",
        autocompletion=completion.overrides,
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Data as JSON on stdout.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="No messages and no progress; warnings and errors stay.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
Model = Annotated[
    str | None,
    typer.Option(
        "--model",
        metavar="RUN_OR_FILE",
        help="A run, a model file, or the name of a recipe (its last run).",
        autocompletion=completion.models,
    ),
]
Device = Annotated[str | None, typer.Option("--device", help="auto, cpu, cuda, cuda:N or mps.")]
Workers = Annotated[
    int | None,
    typer.Option("--workers", min=0, max=256, help="Threads that decode and compute side by side; 0 takes none."),
]
Engine = Annotated[
    EngineName | None,
    typer.Option("--engine", help="What computes; default: torch, or what an exported file was made for."),
]
Precision = Annotated[
    PrecisionName | None,
    typer.Option("--precision", help="In place of fp32, or of bf16 where fx predict may take it."),
]
BatchSize = Annotated[int | None, typer.Option("--batch-size", min=1, help="Pictures per forward pass.")]
Paths = Annotated[
    PathStyle,
    typer.Option("--paths", help="How pictures are named in rows and files; hashed: under a key of yours."),
]
Parquet = Annotated[
    bool, typer.Option("--parquet", help="Write the table as Parquet, too, in typed columns (extra parquet).")
]
Out = Annotated[Path | None, typer.Option("--out", metavar="DIR", help="Folder that the output goes to.")]
