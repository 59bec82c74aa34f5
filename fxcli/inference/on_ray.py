"""Shards on a Ray cluster (extra `ray`): a dataset of them, and actors that open the model once. Only here is Ray.

What a shard is, and what becomes of it, is in shards. Called by commands/spread.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import platform
import socket
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from fxcli.console import console
from fxcli.errors import FxError, RunError, UsageError
from fxcli.inference import shards
from fxcli.inference.shards import Shard, Told
from fxcli.inference.verdict import Judge

# Ray itself tries for minutes.
_CONNECT_S = 10.0
_ADDRESS = "RAY_ADDRESS"
_KEPT = "what is done is kept, and --resume goes on with it"


@dataclass(frozen=True)
class Task:
    """What an actor needs to know.

    Attributes:
        make: Opens the model.
        made_with: What its rows must be made with, as Judge.made_with tells.
        folder: Of the shards so far, absolute.
        command: See shards.write.
        cores: That it may use.
    """

    make: Callable[[], Judge]
    made_with: Mapping[str, Any]
    folder: str
    command: str
    cores: int

    def opened(self) -> Judge:
        """The model, on this machine.

        Raises:
            RunError: It would answer otherwise than where the command was given.
        """
        torch.set_num_threads(self.cores)
        judge = self.make()
        own = judge.made_with()
        asked = self.made_with
        if differ := [name for name in {**asked, **own} if own.get(name) != asked.get(name)]:
            told = ", ".join(f"{name} {own.get(name)} in place of {asked.get(name)}" for name in differ)
            hint = "install the same fx everywhere; where processors differ: --precision fp32"
            raise RunError(f"this machine would answer with {told}", hint=hint)
        return judge


class Worker:
    """What an actor does: opens the model at its first shard, and writes the rows of each."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.judge: Judge | None = None

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, list[str]]:
        """Writes one shard, and tells of it, or why it cannot be; Ray would not keep the class of an error."""
        console.configure(quiet=True)
        (key,), (files,), (cells,) = batch["key"], batch["files"], batch["cells"]
        shard = Shard(tuple(Path(os.fsdecode(file)) for file in files), tuple(map(str, cells)), str(key))
        try:
            self.judge = self.judge or self.task.opened()
            told = asdict(shards.write(self.judge, shard, Path(self.task.folder), self.task.command))
        except FxError as error:
            where = f"{error.where}: " if error.where else ""
            what = f"on {platform.node()}: {where}{error.what}"
            told = {"code": error.exit_code, "what": what, "hint": error.hint}
        return {"key": [shard.key], "told": [json.dumps(told)]}


@contextlib.contextmanager
def cluster(*, cores: int) -> Iterator[int]:
    """Joins the cluster that RAY_ADDRESS names, or starts one here; gives how many actors it has room for.

    Args:
        cores: Of each actor.

    Raises:
        RunError: The cluster cannot be reached.
        UsageError: No machine of it has room for an actor.
    """
    # Nothing is told to anybody; and what Ray says on stderr is for its developers.
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    if not console.debug:
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    import ray
    import ray.data
    from ray.exceptions import RayError

    level = logging.INFO if console.debug else logging.CRITICAL
    for name in ("ray", "ray.data"):
        logging.getLogger(name).setLevel(level)
    ray.data.DataContext.get_current().enable_progress_bars = False
    address = os.environ.get(_ADDRESS) or "local"
    more = {"num_cpus": torch.get_num_threads(), "include_dashboard": False} if address == "local" else {}
    _check(address)
    # Where a machine is lost, Ray says so on stdout.
    with contextlib.redirect_stdout(sys.stderr):
        try:
            ray.init(address, log_to_driver=console.debug, logging_level=level, **more)
        except (RayError, OSError, RuntimeError, ValueError) as error:
            raise _unreachable(address, str(error).strip().partition("\n")[0]) from error
        try:
            yield _room(ray.nodes(), cores, address)
        except RayError as error:
            # The last line is what was raised, be it on another machine.
            told = str(error).strip().rpartition("\n")[2]
            raise RunError(f"Ray gave up: {told}", hint=f"--debug shows all of it; {_KEPT}") from error
        finally:
            ray.shutdown()


def _room(nodes: Sequence[Mapping[str, Any]], cores: int, address: str) -> int:
    """How many actors of so many cores the machines of a cluster have room for."""
    alive = [node["Resources"].get("CPU", 0) for node in nodes if node["Alive"]]
    room = sum(int(free // cores) for free in alive)
    if not room:
        raise UsageError(f"no machine of the cluster has {cores} cores", hint="lower --workers")
    where = "this machine" if address == "local" else f"{len(alive)} machines at {address}"
    console.note(f"Ray on {where}: room for {room} × {cores} cores")
    return room


def _check(address: str) -> None:
    """Whether somebody listens where a cluster should be."""
    if address in ("local", "auto"):
        return
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdecimal() or "//" in host:
        raise UsageError(f"{_ADDRESS} is '{address}', not HOST:PORT", hint="run fx on a machine of the cluster")
    try:
        socket.create_connection((host, int(port)), timeout=_CONNECT_S).close()
    except (OSError, OverflowError) as error:
        raise _unreachable(address, str(error)) from error


def _unreachable(address: str, why: str) -> RunError:
    hint = f"ray status shows whether it is up; without {_ADDRESS} one is started here"
    return RunError(f"no Ray cluster can be used at {address}: {why}", hint=hint)


def written(task: Task, todo: Sequence[Shard], *, room: int) -> Iterator[Told]:
    """Has shards written by a pool of actors, each once; tells of each when it is done, in any order.

    Of one that stands there several times it tells as often.

    Args:
        task: Of each actor.
        todo: At least one.
        room: For so many actors.

    Raises:
        FxError: A machine cannot do its part; of the branch of the tree that its error was of.
    """
    import ray.data

    # The same pictures may have been named twice: actors that begin one shard side by side count as processes that end.
    often = Counter(shard.key for shard in todo)
    items = [
        {"key": shard.key, "files": [os.fsencode(file) for file in shard.files], "cells": list(shard.cells)}
        for shard in {shard.key: shard for shard in todo}.values()
    ]
    size = min(room, len(items))
    # All at once; and fewer later, for who has nothing to do makes room for who was on a machine that is lost.
    pool = ray.data.ActorPoolStrategy(min_size=1, max_size=size, initial_size=size, max_tasks_in_flight_per_actor=1)
    made = ray.data.from_items(items, override_num_blocks=len(items)).map_batches(
        Worker, fn_constructor_args=(task,), batch_size=1, num_cpus=task.cores, compute=pool
    )
    for row in made.iter_rows():
        told = json.loads(row["told"])
        if "what" in told:
            raise _again(**told)
        yield from [Told(**told)] * often[row["key"]]


def _again(code: int, what: str, hint: str | None) -> FxError:
    """The error of another machine."""
    kind = {each.exit_code: each for each in FxError.__subclasses__()}.get(code, FxError)
    # Some classes build their message of what is not known here.
    error = kind.__new__(kind)
    FxError.__init__(error, what, hint=hint or _KEPT)
    return error
