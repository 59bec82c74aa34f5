"""`fx runs`: what was trained here."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from fxcli.commands.options import Debug, Json, Quiet
from fxcli.console import console

if TYPE_CHECKING:
    from fxcli.run.directory import Run


def runs(json: Json = False, quiet: Quiet = False, debug: Debug = False) -> None:
    """Lists the runs below runs/: name, status, best value of the monitor, accuracy (validation, or out of fold), size.

    Example: fx runs
    """
    console.configure(json=json, quiet=quiet, debug=debug)
    from fxcli.run.directory import all_runs

    rows = [_row(run, info) for run, info in all_runs()]
    if json:
        for row in rows:
            console.record(row)
    elif rows:
        console.table(list(rows[0]), [list(row.values()) for row in rows])
    else:
        console.note("no runs here; fx train RECIPE makes one")


def _row(run: Run, info: dict[str, Any]) -> dict[str, Any]:
    figures = info.get("figures") or {}
    return {
        "name": run.path.name,
        "status": run.status(info),
        "task": info.get("task"),
        "started": info.get("created"),
        "epoch": info.get("epoch"),
        "monitor": info.get("monitor"),
        "best": _rounded(info.get("best")),
        "accuracy": _rounded(figures.get("accuracy")),
        "size_mb": round(sum(_sizes(run)) / 1e6, 1),
        "demo": "DEMO" if info.get("demo") else "",
    }


def _sizes(run: Run) -> Iterator[int]:
    for folder, _, names in os.walk(run.path):
        for name in names:
            # A run in progress renames files while they are counted.
            with contextlib.suppress(OSError):
                yield os.path.getsize(os.path.join(folder, name))


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
