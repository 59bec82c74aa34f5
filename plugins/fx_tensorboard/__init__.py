"""Curves, settings and training pictures for TensorBoard, in the folder `tensorboard` of a run, where they are wanted.

python -m pip install 'fxcli[track]'
FX_TENSORBOARD=1 fx train final
tensorboard --logdir runs
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from fxcli import MissingDependency, UsageError, hookimpl

if TYPE_CHECKING:
    from fx_tensorboard.tracker import Tracker

WANTED = "FX_TENSORBOARD"

# Of the training that runs now: the parts of a run come one after the other.
_open: dict[Path, Tracker] = {}


@hookimpl
def fx_start_run(run: Path) -> None:
    """Opens the tracker of a training, if one is wanted.

    Raises:
        UsageError: FX_TENSORBOARD is neither 1 nor 0.
        MissingDependency: TensorBoard is not installed.
    """
    while _open:
        _open.popitem()[1].close()
    wanted = os.environ.get(WANTED, "")
    if wanted not in ("", "0", "1"):
        raise UsageError(f"{WANTED} is 1 (TensorBoard) or 0 (none), not '{wanted}'")
    if wanted != "1":
        return
    try:
        from fx_tensorboard.tracker import Tracker
    except ImportError as error:
        raise MissingDependency("tensorboard", extra="track", purpose=f"{WANTED}=1") from error
    _open[run] = Tracker(run)


@hookimpl
def fx_log_metrics(run: Path, step: int, metrics: Mapping[str, float]) -> None:
    """Hands the figures to the tracker, if there is one."""
    if run in _open:
        _open[run].log(step, metrics)
