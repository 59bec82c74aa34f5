"""The options that mean the same in every command."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Sets = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a key of the recipe; repeatable.")
]
Json = Annotated[bool, typer.Option("--json", help="Data as JSON on stdout.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="No messages and no progress; warnings and errors stay.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
Model = Annotated[
    str | None,
    typer.Option("--model", metavar="RUN_OR_FILE", help="A run, a model file, or the name of a recipe (its last run)."),
]
Device = Annotated[str | None, typer.Option("--device", help="auto, cpu, cuda, cuda:N or mps.")]
Workers = Annotated[
    int | None, typer.Option("--workers", min=0, max=256, help="Decoding threads; 0 decodes without any.")
]
BatchSize = Annotated[int | None, typer.Option("--batch-size", min=1, help="Pictures per forward pass.")]
Out = Annotated[Path | None, typer.Option("--out", metavar="DIR", help="Folder that the output goes to.")]
