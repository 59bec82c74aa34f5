"""fx's side: the commands as a user types them, called in a warm process or as a program."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any


def predict(*, model: str, options: Sequence[str] = (), cam: bool = False) -> Callable[..., None]:
    """`fx predict FOLDER --model MODEL --out OUT`; with `cam`, heat maps below OUT/cam."""

    def run(*, folder: str, out: str) -> None:
        drawn = ["--cam", str(Path(out) / "cam")] if cam else []
        invoke(["predict", folder, "--model", model, "--out", out, "--quiet", *options, *drawn])

    return run


def train(*, recipe: str, sets: Sequence[str], images: int) -> Callable[..., dict[str, float]]:
    """`fx train RECIPE`.

    Besides the whole command's "seconds" it gives "epoch_seconds": of the last epoch's `images` training pictures, at
    the rate that the run itself wrote.
    """

    def run(*, out: str, seed: int) -> dict[str, float]:
        # Nothing that an earlier repeat computed may be found again.
        os.environ["FX_CACHE_DIR"] = str(Path(out).parent / f"cache-{Path(out).name}")
        values = [part for value in (*sets, f"seed={seed}") for part in ("--set", value)]
        invoke(["train", recipe, *values, "--out", out, "--quiet"])
        lines = (Path(out) / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        rates = [record["images_per_s"] for line in lines if "images_per_s" in (record := json.loads(line))]
        return {"epoch_seconds": images / rates[-1]}

    return run


def invoke(arguments: Sequence[str]) -> str:
    """Runs a command in this process and returns its stdout.

    Raises:
        RuntimeError: It failed.
    """
    from typer.testing import CliRunner

    from fxcli.cli import app

    done = CliRunner().invoke(app, list(arguments))
    if done.exit_code:
        raise RuntimeError(f"fx {' '.join(arguments)}\n{done.output}") from done.exception
    return done.stdout


def lacks(command: str, *options: str) -> str:
    """Why a command cannot be measured: it, or options of it, are not in this version; "" if they are."""
    import typer

    from fxcli.cli import app

    tree: Any = typer.main.get_command(app)
    for word in command.split():
        if not hasattr(tree, "commands"):
            break  # the rest are its arguments
        tree = tree.commands.get(word)
        if tree is None:
            return f"not measured: this fx has no `fx {command}`"
    known = {name for parameter in tree.params for name in parameter.opts}
    absent = [option for option in options if option not in known]
    return f"not measured: this `fx {command}` has no {', '.join(absent)}" if absent else ""
