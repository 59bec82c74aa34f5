"""A side of a comparison, in a warm process of its own: sides share neither thread pools nor settings nor memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

TESTS = Path(__file__).resolve().parent.parent


class SideFailed(Exception):
    """A side could not be made or run; the message is its traceback."""


class SideMissing(Exception):
    """A side needs a package that is not installed; the message is its name."""


class Side:
    """A process that stands ready.

    Args:
        name: "module:function" below `bench`; see `worker`.
        settings: For the function.
    """

    def __init__(self, name: str, settings: Mapping[str, Any]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bench.worker", f"bench.{name}", json.dumps(settings)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            # What a peer's own libraries say to each other is no message for who runs the benchmark.
            env=environment() | {"PYTHONWARNINGS": "ignore"},
        )
        try:
            self._answer()
        except Exception:
            self.close()
            raise

    def run(self, **task: Any) -> dict[str, Any]:
        """Runs it once; "seconds" is how long it took, measured in its process.

        Raises:
            SideFailed: It failed.
        """
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(task) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def close(self) -> None:
        """Ends the process."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        values: dict[str, Any] = json.loads(line) if line else {"error": "the process ended"}
        if "missing" in values:
            raise SideMissing(values["missing"])
        if "error" in values:
            raise SideFailed(values["error"])
        return values


@contextmanager
def opened(wanted: Mapping[str, tuple[str, Mapping[str, Any]]]) -> Iterator[tuple[dict[str, Side], dict[str, str]]]:
    """Makes several sides.

    Args:
        wanted: By the name they have in the table: "module:function" and settings.

    Yields:
        The sides, and a note for each that needs a package which is not there.
    """
    sides: dict[str, Side] = {}
    notes: dict[str, str] = {}
    with ExitStack() as stack:
        for name, (function, settings) in wanted.items():
            try:
                sides[name] = Side(function, settings)
            except SideMissing as missing:
                notes[name] = f"not measured: {missing} is not installed"
                continue
            stack.callback(sides[name].close)
        yield sides, notes


def environment() -> dict[str, str]:
    """Of a user's shell: as many threads as the libraries choose, and bytecode kept as after an installation."""
    env = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    # The other tests run with one thread each, which tests/conftest.py sets.
    env.pop("OMP_NUM_THREADS", None)
    env["PYTHONPATH"] = os.pathsep.join([str(TESTS), *filter(None, [env.get("PYTHONPATH")])])
    return env
