"""One process at a time in a folder: of a run, a study, a prepared folder in the making, or predictions."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from pathlib import Path

from fxcli.errors import RunError

# What a look and a removal take many times over: older, the file is of a dead process.
_TAKING_S = 5.0


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
        for _ in range(20):
            try:
                handle = os.open(self.file, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
            except FileExistsError:
                self._take_over()
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
        if not self.file.exists():
            return False
        pid, host, begun = self._holder()
        if host != socket.gethostname():
            return True
        # After a restart of the machine another process may have its number.
        return _alive(pid) and (begun is None or _begun(pid) in (None, begun))

    def _take_over(self) -> None:
        until = time.monotonic() + self.wait_s
        while self.is_held:
            if time.monotonic() >= until:
                pid, host, _ = self._holder()
                raise RunError(
                    f"process {pid} on {host} is at work in this folder",
                    where=self.file,
                    hint="wait for it; if that process is gone, delete the file",
                )
            time.sleep(0.05)
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
            if not self.is_held:
                self.file.unlink(missing_ok=True)
        finally:
            taking.unlink(missing_ok=True)

    def _holder(self) -> tuple[int, str, str | None]:
        for _ in range(10):
            try:
                holder = json.loads(self.file.read_text(encoding="utf-8"))
                return int(holder["pid"]), str(holder["host"]), holder.get("begun")
            except (OSError, ValueError, KeyError, TypeError, OverflowError):
                time.sleep(0.05)  # it may be being written at this very moment
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
