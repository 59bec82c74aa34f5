"""`fx predict` over very many files, watched from outside: rows and memory at each moment."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.side import TESTS, environment

# How often the process is looked at.
_PAUSE_S = 0.05
_PAGE_MIB = os.sysconf("SC_PAGE_SIZE") / 2**20 if hasattr(os, "sysconf") else 0.0
_IN_A_FOLDER = 1_000


@dataclass(frozen=True)
class Watched:
    """What was seen of a process.

    Attributes:
        seconds: From its start to its end.
        rows: In the complete file.
        moments: (seconds, rows, MiB of resident memory) of each look at it.
    """

    seconds: float
    rows: int
    moments: Sequence[tuple[float, int, float]]

    @property
    def first_s(self) -> float:
        """When the first row was there."""
        return next(seconds for seconds, rows, _ in self.moments if rows)

    def memory_mib(self, frac: float) -> float:
        """When this fraction of the rows was there."""
        return next(memory for _, rows, memory in self.moments if rows >= frac * self.rows)

    def rates(self, parts: int) -> list[float]:
        """Rows per second within each of so many equal parts of the rows."""
        ends = [next(s for s, rows, _ in self.moments if rows >= self.rows * i // parts) for i in range(1, parts + 1)]
        starts = [self.first_s, *ends]
        return [self.rows / parts / (end - start) for start, end in zip(starts, ends, strict=False)]

    def told(self) -> str:
        """All of it on a few lines."""
        memory = ", ".join(f"{frac:.0%} {self.memory_mib(frac):.0f}" for frac in (0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 1))
        rates = ", ".join(f"{rate:.0f}" for rate in self.rates(10))
        return (
            f"{self.rows} rows in {self.seconds:.1f} s, the first after {self.first_s:.1f} s\n"
            f"resident memory in MiB at the fraction of rows: {memory}\nrows per second in each tenth: {rates}"
        )


def tree(target: Path, count: int, *, drawn: int, size_px: int = 96) -> Path:
    """A tree of `count` files, each a hard link to one of `drawn` phantoms."""
    from PIL import Image

    from fxcli.data import phantom

    sources = []
    (target / "drawn").mkdir(parents=True)
    for number, case in enumerate(phantom.plan(seed=0)[:drawn]):
        sources.append(target / "drawn" / f"{number}.png")
        Image.fromarray(phantom.draw(case, size_px)).save(sources[-1])
    for number in range(count):
        folder = target / "files" / f"{number // _IN_A_FOLDER:03d}"
        if number % _IN_A_FOLDER == 0:
            folder.mkdir(parents=True)
        os.link(sources[number % len(sources)], folder / f"study {number:06d} wrist.png")
    return target / "files"


def plugin(target: Path) -> Path:
    """A folder that brings demo_tiny, as an installed distribution would."""
    info = target / "fx_demo-0.0.dist-info"
    info.mkdir(parents=True)
    shutil.copy(TESTS / "third_party" / "fx_demo" / "fx_demo.py", target)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: fx-demo\nVersion: 0.0\n", encoding="utf-8")
    (info / "entry_points.txt").write_text("[fx.plugins]\ndemo = fx_demo\n", encoding="utf-8")
    return target


def watched(*arguments: object, out: Path, plugins: Path | None = None) -> Watched:
    """Runs `fx predict … --out OUT --quiet` and looks on.

    Raises:
        RuntimeError: It failed.
    """
    env = environment() | {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
    if plugins:
        env["PYTHONPATH"] = os.pathsep.join([str(plugins), env["PYTHONPATH"]])
    command = [sys.executable, "-m", "fxcli", "predict", *map(str, arguments), "--out", str(out), "--quiet"]
    started = time.perf_counter()
    process = subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True)
    moments, growing = [], Growing(out / "predictions.csv.part")
    while process.poll() is None:
        memory, rows = memory_mib(process.pid), growing.rows()
        # At its end, a process takes up what it had only mapped; rows are complete by then.
        if memory and not (rows and not growing.file.exists()):
            moments.append((time.perf_counter() - started, rows, memory))
        time.sleep(_PAUSE_S)
    seconds = time.perf_counter() - started
    assert process.stderr is not None
    if process.returncode:
        raise RuntimeError(process.stderr.read())
    process.stderr.close()
    # One line each: no name here holds a line end.
    rows = (out / "predictions.csv").read_bytes().count(b"\n") - 1
    moments.append((moments[-1][0] + _PAUSE_S, rows, moments[-1][2]))
    return Watched(seconds, rows, moments)


class Growing:
    """Counts the rows of a file that another process adds to."""

    def __init__(self, file: Path) -> None:
        self.file, self.bytes, self.lines = file, 0, 0

    def rows(self) -> int:
        """So far."""
        if self.file.exists():
            with self.file.open("rb") as handle:
                handle.seek(self.bytes)
                more = handle.read()
            self.bytes, self.lines = self.bytes + len(more), self.lines + more.count(b"\n")
        return max(0, self.lines - 1)


def memory_mib(pid: int) -> float:
    """Resident memory of a process; 0 once it has ended."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1]) * _PAGE_MIB
    except (OSError, IndexError):
        return 0.0
