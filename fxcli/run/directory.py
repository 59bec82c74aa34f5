"""A run on disk: its name, its status, its lock, its log; and how runs and models are found.

    runs/<recipe>-<UTC>-<id>/
        run.json        status, argv, versions, plugins, hardware, seed, hashes
        recipe.yaml     resolved: training it alone reproduces the run
        manifest.csv    fingerprint.json    as they were
        metrics.jsonl   one object per log
        checkpoints/    last/ (resume state), best/ (model file)
        model.safetensors    what the run made
        predictions/    evaluation/    exports/    log.txt
    seeds/0/        folds/0/    seeds/0/folds/0/    of several trainings each, as above

Nothing here imports torch.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import secrets
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any

from fxcli.errors import RunError
from fxcli.run.checkpoint import read_header
from fxcli.run.files import append_line, sync_folder, write_json
from fxcli.run.lock import Lock

RUNS = Path("runs")
_INFO_LIMIT_BYTES = 16 << 20
# Folders of a run that hold models, and how deep they lie in it.
_DEPTHS = {"best": 2, "exports": 1}
_FOLDERS = ("checkpoints/last", "checkpoints/best", "predictions", "evaluation")
# What tells a run from another folder; of one that was stopped before it began, the second.
_MARKS = ("run.json", "recipe.yaml")
# Folders of a run of several trainings.
_PARTS = ("seeds", "folds")
STATUSES = ("running", "finished", "failed", "interrupted")


@dataclass(frozen=True)
class Run:
    """A run directory."""

    path: Path

    @property
    def name(self) -> str:
        """Of its folder, also where that is called . or .. from here."""
        return Path(os.path.abspath(self.path)).name

    @property
    def model_file(self) -> Path:
        """What a finished run made."""
        return self.path / "model.safetensors"

    @property
    def best_file(self) -> Path:
        """The model of the best epoch of the phase so far."""
        return self.path / "checkpoints" / "best" / "model.safetensors"

    @property
    def held_out_file(self) -> Path:
        """What a part of a run says of the pictures that it held out."""
        return self.path / "predictions" / "held_out.csv"

    @property
    def oof_file(self) -> Path:
        """What the parts of a run together say of all training pictures, each by those that held it out."""
        return self.path / "predictions" / "oof.csv"

    @property
    def state_file(self) -> Path:
        """All that resuming needs."""
        return self.path / "checkpoints" / "last" / "state.safetensors"

    @property
    def metrics_file(self) -> Path:
        """One JSON object per log."""
        return self.path / "metrics.jsonl"

    def info(self) -> dict[str, Any]:
        """run.json.

        Raises:
            RunError: It is absent or damaged.
        """
        file = self.path / "run.json"
        try:
            if file.stat().st_size > _INFO_LIMIT_BYTES:
                raise RunError("run.json is damaged: too large", where=self.path)
            value = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise RunError("no run directory: its run.json cannot be read", where=self.path) from error
        if not isinstance(value, dict) or value.get("status") not in STATUSES:
            raise RunError("run.json is damaged", where=self.path)
        return value

    @property
    def manifest_file(self) -> Path:
        """The manifest that it was started with, beside its pictures; the run has a copy of it.

        Raises:
            RunError: run.json is absent or damaged.
        """
        recorded = self.info().get("manifest")
        if not isinstance(recorded, str) or not recorded or "\0" in recorded:
            raise RunError("run.json is damaged: it names no manifest", where=self.path)
        return Path(recorded)

    @property
    def oof_files(self) -> list[Path]:
        """What is out of fold, a file a seed; none of a run without folds, or not through yet."""
        seeds = sorted(int(path.name) for path in self.path.glob("seeds/*") if path.name.isdecimal())
        runs = [self.within(seed) for seed in seeds] or [self]
        return [run.oof_file for run in runs if run.oof_file.is_file()]

    def within(self, seed: int | None, fold: int | None = None) -> Run:
        """One of several trainings of a run: of a seed, a fold, or both; with no fold, what those of the seed make."""
        words = [(kind, number) for kind, number in zip(_PARTS, (seed, fold), strict=True) if number is not None]
        return Run(self.path.joinpath(*(str(word) for pair in words for word in pair)))

    def parts(self) -> list[tuple[int | None, int | None, Run]]:
        """The several trainings that were begun here, in order: seed, fold (None: there is one alone), and run."""
        found = []
        for pattern in ("seeds/*", "folds/*", "seeds/*/folds/*"):
            for path in self.path.glob(pattern):
                words = path.relative_to(self.path).parts
                named = dict(zip(words[::2], words[1::2], strict=True))
                if (path / "run.json").is_file() and all(number.isdecimal() for number in named.values()):
                    seed, fold = (int(named[kind]) if kind in named else None for kind in _PARTS)
                    found.append((seed, fold, Run(path)))
        return sorted(found, key=lambda part: (part[0] or 0, part[1] or 0))

    def status(self, info: Mapping[str, Any]) -> str:
        """One of STATUSES, as run.json says; or "died" where nobody is at work on what is said to be running."""
        told = str(info["status"])
        # Of a part, the whole is locked.
        return "died" if told == "running" and not Lock(whole_of(self.path, info)).is_held else told

    def update(self, **values: Any) -> None:
        """Changes entries of run.json."""
        write_json(self.path / "run.json", self.info() | values)

    def log(self, text: str) -> None:
        """Appends a line to log.txt."""
        stamp = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S")
        append_line(self.path / "log.txt", f"{stamp} {text}")


def create(
    name: str,
    info: Mapping[str, Any],
    *,
    out: Path | None,
    files: Mapping[str, Callable[[Path], object]] = MappingProxyType({}),
) -> Run:
    """Makes a new run directory, with status running.

    Args:
        name: Of the recipe.
        info: For run.json.
        out: The directory itself; default runs/<name>-<UTC>-<id>.
        files: Name → what writes it; all before run.json, so that a directory with that file is whole.

    Raises:
        RunError: `out` holds something, but for what a process that was killed left of making a run there; or it
            cannot be written to.
    """
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    run = Run(out or RUNS / f"{name}-{stamp}-{secrets.token_hex(2)}")
    _check_free(run.path, files)
    with writing(whole_of(run.path, info)):
        run.path.mkdir(parents=True, exist_ok=True)
        with Lock(run.path):
            _check_free(run.path, files)  # another process may have been faster
            for folder in _FOLDERS:
                (run.path / folder).mkdir(parents=True, exist_ok=True)
            for file, write in files.items():
                write(run.path / file)
            write_json(run.path / "run.json", {"status": "running", **info})
        sync_folder(run.path.parent)
    return run


def _check_free(path: Path, files: Iterable[str]) -> None:
    begun = {*_FOLDERS, "checkpoints", "lock.json", "run.json.part", *files, *(f"{file}.part" for file in files)}
    is_free = not path.exists() or (
        path.is_dir() and all(found.relative_to(path).as_posix() in begun for found in path.rglob("*"))
    )
    if not is_free:
        hint = f"another --out, or: fx train --resume {shlex.quote(str(path))}"
        raise RunError("this folder is in use", where=path, hint=hint)


def whole_of(path: Path, info: Mapping[str, Any]) -> Path:
    """The run that is resumed to go on with one whose run.json this is: itself, or the one that it is a part of."""
    return Path(os.path.normpath(path / str(info.get("part_of") or "")))


@contextlib.contextmanager
def held(run: Run) -> Iterator[None]:
    """A run that this process alone writes to.

    Raises:
        RunError: Another process is at work there, or it cannot be written to.
    """
    with writing(run.path), Lock(run.path):
        yield


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Tells of a run that cannot be written to, full or read-only, as a RunError; `path` is what would be resumed."""
    try:
        yield
    except BrokenPipeError:
        raise  # of somebody who listens to us, not of a file
    except OSError as error:
        raise RunError(
            f"cannot be written to: {error.strerror or error}",
            where=error.filename or path,
            hint=f"check the space and permissions there; what was saved is whole, and goes on with: "
            f"fx train --resume {shlex.quote(str(path))}",
        ) from error


def open_run(path: Path) -> Run:
    """An existing run: its directory, or its name below runs/.

    Raises:
        RunError: It is none.
    """
    # A run before one that never began, and that before another folder of the name.
    for folder in sorted((path, RUNS / path), key=lambda each: [not (each / file).exists() for file in _MARKS]):
        if folder.is_dir():
            if not (folder / "run.json").exists() and (folder / "recipe.yaml").exists():
                raise RunError("this run was stopped before it began", where=folder, hint="start it again, as it was")
            Run(folder).info()
            return Run(folder)
    raise RunError("no such run directory", where=path, hint="fx runs lists the runs here")


def all_runs(folder: Path = RUNS) -> Iterator[tuple[Run, dict[str, Any]]]:
    """Every run in a folder with its run.json, oldest first; folders without a readable one are passed over."""
    if not folder.is_dir():
        return
    found = []
    for path in folder.iterdir():
        try:
            found.append((Run(path), Run(path).info()))
        except RunError:
            continue
    yield from sorted(found, key=lambda pair: (str(pair[1].get("created", "")), pair[0].path.name))


def find_model(wanted: str | None) -> tuple[Path, Run | None]:
    """The model file that `--model` means, and its run if it lies in one.

    Args:
        wanted: A run directory, or its name below runs/; a model file; a recipe's name (its last finished run); or
            None: the last finished classify run that was not trained on phantoms.

    Raises:
        RunError: There is none.
    """
    if wanted is None:
        return _last_model()
    path = Path(wanted)
    if _is_file(path):
        depth = _DEPTHS.get(Path(os.path.abspath(path)).parent.name, 0)
        inside = path.parent
        for _ in range(depth):
            # Of the current folder the parent is named by .. alone; elsewhere .. may follow a link, and stays.
            inside = inside / os.pardir if inside.name in ("", os.pardir) else inside.parent
        return path, Run(inside) if (inside / "run.json").is_file() else None
    for folder in (path, RUNS / path):
        if _is_file(folder / "run.json"):
            return _model_of(open_run(folder))
    if run := _last_of(wanted):
        return run.model_file, run
    raise RunError(
        "no run directory or model file, and no finished run of a recipe of this name",
        where=wanted,
        hint="fx runs lists the runs here",
    )


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            return False
        raise


def find_run(wanted: str) -> Run:
    """A run, finished or not: its directory, or its name below runs/; or a recipe's name, its last finished run.

    Raises:
        RunError: There is none.
    """
    if not any((folder / "run.json").exists() for folder in (Path(wanted), RUNS / wanted)):
        if run := _last_of(wanted):
            return run
        if Path(wanted).is_file():
            raise RunError("this is a file, not a run", where=wanted, hint="name the folder of the run")
    return open_run(Path(wanted))


def _last_of(recipe: str) -> Run | None:
    """The last finished run of a recipe."""
    found: Run | None = None
    for run, info in all_runs():
        if info.get("recipe") == recipe and info["status"] == "finished" and run.model_file.is_file():
            found = run
    return found


def last_pretraining(method: str | None, backbone: str | None) -> Run | None:
    """The last finished pretraining with a method and backbone; None where there is none.

    Raises:
        ModelFileError: The file of one that finished later is damaged.
    """
    run: Run
    for run, info in reversed(list(all_runs())):
        if info["status"] != "finished" or info.get("task") != "pretrain" or not run.model_file.is_file():
            continue
        header = read_header(run.model_file)
        if (header.get("method"), header.get("backbone")) == (method, backbone):
            return run
    return None


def _model_of(run: Run) -> tuple[Path, Run]:
    for file in (run.model_file, run.best_file):
        if file.is_file():
            return file, run
    raise RunError(f"this run has no model yet (status {run.info()['status']})", where=run.path)


def _last_model() -> tuple[Path, Run]:
    demo = None
    for run, info in reversed(list(all_runs())):
        if info["status"] != "finished" or info.get("task") != "classify" or not run.model_file.is_file():
            continue
        if info.get("demo"):
            demo = demo or run
            continue
        return run.model_file, run
    if demo:
        raise RunError(
            "the only finished runs here were trained on phantoms, which say nothing about other pictures",
            where=RUNS,
            hint=f"train on your pictures, or name the run: --model {shlex.quote(str(demo.path))}",
        )
    raise RunError("no finished run here", where=RUNS, hint="train one (fx train RECIPE) or name a model: --model")
