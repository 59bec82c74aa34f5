"""Children that train and are killed: what tests/test_faults.py forks from a warm process. No tests here.

Every write of a run is an event: a file that is opened to be written, an fsync, a name that is given, a folder that is
made, a file that is taken away. A child can be killed before any of them, in one of three ways:

    plain   everything that was written is there
    torn    of the file that was being written, half is there
    power   what was not fsynced is lost: content that no fsync followed is empty, and names that no fsync of their
            folder followed are as they were before
"""

import json
import multiprocessing
import os
import signal
import sys
import threading
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
import sklearn.metrics
import sklearn.model_selection
import torch
from PIL import Image

from fxcli.cli import app
from fxcli.console import console
from fxcli.training import job
from fxcli.zoo.plugins import Plugin, load_zoo

# Imported once, here, and not in every child; nothing may be computed before the fork.
WARM = (pytest, sklearn.metrics, sklearn.model_selection, job)
Image.init()
torch.set_num_threads(1)

sys.path.insert(0, str(Path(__file__).parent / "third_party" / "fx_demo"))
if "demo_tiny" not in load_zoo().backbones():
    load_zoo().load(
        Plugin(name="demo", distribution="fx-demo", version="0.1", module="fx_demo"),
        EntryPoint("demo", "fx_demo", "fx.plugins"),
    )


def fx(folder, arguments, *, out, start_method="fork", at=None, mode="plain", after_calls=None):
    """Runs a command in `folder` and exits with its code, or is killed on the way.

    Args:
        folder: Becomes the current folder; what happens elsewhere is no event.
        arguments: Of fx.
        out: File that gets {"events": …, "calls": …} if the child lives, and beside it what it said.
        start_method: Of the decoding processes.
        at: Number of the event that kills.
        mode: How; see above.
        after_calls: Number of the Python call that kills.
    """
    os.chdir(folder)
    os.environ["FX_CACHE_DIR"] = str(Path(folder, "cache"))
    log = os.open(Path(out).with_suffix(".log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    multiprocessing.set_start_method(start_method, force=True)
    console.configure()
    events = Events(Path(folder), at, mode)
    calls = Calls(after_calls)
    code = 0
    # The training is killed, not a process that decodes for it.
    os.register_at_fork(after_in_child=lambda: sys.setprofile(None))
    sys.setprofile(calls)
    try:
        app(arguments, prog_name="fx")
    except SystemExit as ended:
        code = int(ended.code or 0)
    finally:
        sys.setprofile(None)
        events.on = False
    Path(out).write_text(json.dumps({"events": events.names, "calls": calls.count}))
    sys.exit(code)


def die():
    os.kill(os.getpid(), signal.SIGKILL)


class Calls:
    """Counts the calls of Python functions in the main thread, and kills at one of them."""

    def __init__(self, last):
        self.last, self.count = last, 0

    def __call__(self, frame, event, argument):
        if event == "call":
            self.count += 1
            if self.count == self.last:
                die()


class Events:
    """Sees every write below a folder, from this process alone, and kills at one of them."""

    def __init__(self, folder, at, mode):
        self.folder, self.at, self.mode = str(folder.resolve()), at, mode
        self.names, self.on, self.pid = [], True, os.getpid()
        self.growing = {}  # path → its size before what is being written
        self.unsynced, self.renamed = {}, []  # path → its size when it was fsynced; (from, to, what was there)
        self.lock = threading.RLock()
        self.fsync = os.fsync
        os.fsync = self._fsync
        sys.addaudithook(self._audit)

    def _audit(self, name, arguments):
        if not self.on or os.getpid() != self.pid:
            return
        if name == "open":
            path, mode, flags = arguments
            writes = any(letter in mode for letter in "wax+") if mode else flags & (os.O_WRONLY | os.O_RDWR)
            if writes and isinstance(path, str | os.PathLike):
                fresh = mode is not None and "w" in mode
                self._event("open", path, lambda file: self._opened(file, fresh))
        elif name == "os.rename":
            self._event("rename", arguments[1], lambda file: self._rename(os.path.abspath(arguments[0]), file))
        elif name in ("os.mkdir", "os.remove", "os.rmdir"):
            self._event(name.removeprefix("os."), arguments[0], lambda _: None)

    def _fsync(self, handle):
        if self.on and os.getpid() == self.pid:
            self._event("fsync", os.readlink(f"/proc/self/fd/{handle}"), self._synced)
        self.fsync(handle)

    def _event(self, kind, path, note):
        file = os.path.abspath(os.fspath(path))
        if not file.startswith(self.folder + os.sep) and file != self.folder:
            return
        with self.lock:
            self.on = False
            self.names.append(f"{kind} {os.path.relpath(file, self.folder)}")
            if len(self.names) - 1 == self.at:
                self._kill()
            note(file)
            self.on = True

    def _opened(self, file, fresh):
        self.growing = {file: 0 if fresh or not os.path.exists(file) else os.path.getsize(file)}
        self.unsynced.setdefault(file, self.growing[file])

    def _synced(self, file):
        self.unsynced.pop(file, None)
        self.renamed = [entry for entry in self.renamed if os.path.dirname(entry[1]) != file]

    def _rename(self, source, target):
        old = Path(target).read_bytes() if os.path.isfile(target) else None
        self.growing = {}
        if source in self.unsynced:
            self.unsynced[target] = self.unsynced.pop(source)
        self.renamed.append((source, target, old))

    def _kill(self):
        if self.mode == "torn":
            for file, before in self.growing.items():
                if os.path.exists(file):
                    os.truncate(file, before + max(0, os.path.getsize(file) - before) // 2)
        if self.mode == "power":
            for file, size in self.unsynced.items():
                if os.path.exists(file):
                    os.truncate(file, size)
            for source, target, old in reversed(self.renamed):
                if os.path.isfile(target):
                    os.replace(target, source)
                    if old is not None:
                        Path(target).write_bytes(old)
        die()
