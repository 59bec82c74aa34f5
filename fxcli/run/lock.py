"""One process at a time in a folder: of a run, a study, a prepared folder in the making, or predictions."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from pathlib import Path

from fxcli.errors import RunError

# What a look and a removal take many times over, and what writing a lock does: older, the file is of a dead process.
_TAKING_S, _WRITING_S, _NAP_S = 5.0, 1.0, 0.05
# Where it is not waited for another process, the lock may still be lost to one that comes and goes.
_TRIES = 20

# Process, machine, and since when it runs.
_Holder = tuple[int, str, str | None]


class Lock:
    """Keeps two processes from writing one folder. Left behind by a dead process of this machine, it is taken over.

    Args:
        folder: Where its file lies.
        name: Of that file, where it is for something beside it.
        wait_s: How long to wait for another process that holds it.

    Raises:
        RunError: On entering, when another process holds it.
    """

    def __init__(self, folder: Path, name: str = "lock.json", *, wait_s: float = 0.0) -> None:
        self.file, self.wait_s = folder / name, wait_s

    def __enter__(self) -> None:
        mine = json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "begun": _begun(os.getpid())})
        until, tries = time.monotonic() + self.wait_s, 0
        while tries < _TRIES or time.monotonic() < until:
            tries += 1
            try:
                handle = os.open(self.file, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
            except FileExistsError:
                self._take_over(until)
                continue
            try:
                os.write(handle, mine.encode())
            except BaseException:
                self.file.unlink(missing_ok=True)
                raise
            finally:
                os.close(handle)
            return
        raise RunError("the lock of this folder cannot be taken", where=self.file)

    def __exit__(self, *_: object) -> None:
        self.file.unlink(missing_ok=True)

    @property
    def is_held(self) -> bool:
        """Whether a process is at work; one of another machine is taken to be alive."""
        return self._is_of(self._holder())

    @staticmethod
    def _is_of(holder: _Holder | None) -> bool:
        if holder is None:
            return False
        pid, host, begun = holder
        if host != socket.gethostname():
            return True
        # After a restart of the machine another process may have its number.
        return _alive(pid) and (begun is None or _begun(pid) in (None, begun))

    def _take_over(self, until: float) -> None:
        while self._is_of(holder := self._holder()):
            if holder and time.monotonic() >= until:
                raise RunError(
                    f"process {holder[0]} on {holder[1]} is at work in this folder",
                    where=self.file,
                    hint="wait for it; if that process is gone, delete the file",
                )
            time.sleep(_NAP_S)
        if holder is None:
            return
        # One at a time: what lies here after the look may be the new lock of another that took over, too.
        taking = self.file.with_name(f"{self.file.name}.taking")
        try:
            os.close(os.open(taking, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        except FileExistsError:
            time.sleep(_TAKING_S / 10)
            with contextlib.suppress(FileNotFoundError):
                if time.time() - taking.stat().st_mtime > _TAKING_S:
                    taking.unlink()
            return
        try:
            # Where there is none, a process may be making its own this moment; that of a dead one only a takeover ends.
            holder = self._holder()
            if holder is not None and not self._is_of(holder):
                self.file.unlink(missing_ok=True)
        finally:
            taking.unlink(missing_ok=True)

    def _holder(self) -> _Holder | None:
        """What the file says; None where there is none."""
        for _ in range(round(_WRITING_S / _NAP_S)):
            try:
                holder = json.loads(self.file.read_text(encoding="utf-8"))
                return int(holder["pid"]), str(holder["host"]), holder.get("begun")
            except FileNotFoundError:
                return None
            except (OSError, ValueError, KeyError, TypeError, OverflowError):
                time.sleep(_NAP_S)  # it may be being written at this very moment
        return -1, socket.gethostname(), None  # written halfway by a process that died


def _alive(pid: int) -> bool:
    if pid <= 0 or pid == os.getpid():
        return False
    if os.name == "nt":
        import ctypes

        # os.kill(pid, 0) would end the process on Windows.
        kernel32 = ctypes.WinDLL("kernel32")  # type: ignore[attr-defined,unused-ignore]
        handle = kernel32.OpenProcess(0x1000, False, pid)
        if handle:
            kernel32.CloseHandle(handle)
        return bool(handle)
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    try:
        # Dead, and not yet asked for by its parent.
        return _stat(pid)[0] != "Z"
    except (OSError, IndexError):
        return True


def _begun(pid: int) -> str | None:
    """Since when a process runs, in ticks since which start of the machine; None where the system does not tell."""
    try:
        return f"{_stat(pid)[19]} {Path('/proc/sys/kernel/random/boot_id').read_text(encoding='ascii').strip()}"
    except (OSError, IndexError):
        return None


def _stat(pid: int) -> list[str]:
    """What Linux tells of a process, from its state on (proc(5), field 3); the name before it may hold brackets."""
    return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].decode("ascii").split()
