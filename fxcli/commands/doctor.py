"""`fx doctor`: what fx finds on this machine, and what to do about what is missing."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from fxcli import __version__
from fxcli.commands.options import Debug, Json, Quiet
from fxcli.console import console

_LOW_DISK_GIB = 5


class Finding(NamedTuple):
    """One line.

    Attributes:
        part: What it is about.
        name: Of the thing.
        found: In words.
        hint: What to do; "" where all is well.
    """

    part: str
    name: str
    found: str
    hint: str = ""


def doctor(json: Json = False, quiet: Quiet = False, debug: Debug = False) -> None:
    """Shows versions, processor, memory, extras, weights and plugins, and what to do about what is missing.

    Nothing is downloaded or changed. A line with a hint is no error: it says what would be needed for what.

    Example: fx doctor
    """
    console.configure(json=json, quiet=quiet, debug=debug)
    findings = [*_software(), *_machine(), *_extras(), *_weights(), *_plugins(), *_places()]
    if json:
        for finding in findings:
            console.record(finding._asdict())
        return
    console.table(["", "", "found", "what to do"], [tuple(finding) for finding in findings])


def _software() -> Iterator[Finding]:
    from fxcli.run import provenance

    yield Finding("software", "fx", __version__)
    yield Finding("software", "Python", platform.python_version())
    for name in provenance.PACKAGES:
        yield Finding("software", name, provenance.version_of(name) or "not installed")


def _machine() -> Iterator[Finding]:
    import torch

    from fxcli.model import hardware

    yield Finding("machine", "system", f"{platform.system()} {platform.machine()}")
    cores, threads = os.cpu_count() or 1, torch.get_num_threads()
    busy = _busy()
    free = max(1, round(cores - busy))
    # torch's threads wait by spinning: more of them than free cores are slower than one.
    told = f"{busy:.1f} are busy: set OMP_NUM_THREADS={free}, or torch's threads wait for each other"
    yield Finding("machine", "cores", f"{cores}; {threads} threads for torch", told if threads > free else "")
    capability = torch.backends.cpu.get_cpu_capability()
    has_bf16 = hardware.has_bf16(torch.device("cpu"))
    yield Finding(
        "machine",
        "processor",
        f"{capability}, {'with' if has_bf16 else 'without'} bf16",
        "" if has_bf16 else "trains in fp32, which is slower",
    )
    if torch.cuda.is_available():
        names = {torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())}
        yield Finding("machine", "GPU", f"{torch.cuda.device_count()} × {', '.join(sorted(names))}")
    elif torch.backends.mps.is_available():
        yield Finding("machine", "GPU", "Apple (mps)")
    else:
        yield Finding("machine", "GPU", "none")


def _busy() -> float:
    """Cores that are busy, the mean of the last minute; 0 where the system does not tell."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0


def _extras() -> Iterator[Finding]:
    from fxcli.run import provenance

    for extra, packages in provenance.extras().items():
        missing = [name for name in packages if provenance.version_of(name) is None]
        found = "installed" if not missing else f"without {', '.join(missing)}"
        yield Finding("extra", extra, found, f"python -m pip install 'fxcli[{extra}]'" if missing else "")


def _weights() -> Iterator[Finding]:
    from fxcli.model.init import at_hand
    from fxcli.zoo.plugins import load_zoo

    for name, spec in load_zoo().backbones().items():
        for key, source in spec.weights.items():
            where = at_hand(source)
            yield Finding("weights", f"{name}: {key}", "here" if where is None else "not here", where or "")


def _plugins() -> Iterator[Finding]:
    from fxcli.zoo.plugins import load_zoo

    for plugin in load_zoo().plugins:
        is_ok = plugin.status == "ok"
        found = f"{plugin.status} {plugin.stage}".strip()
        yield Finding("plugin", plugin.name, found, "" if is_ok else plugin.reason or "fx plugins")


def _places() -> Iterator[Finding]:
    from fxcli.run.cache import cache_dir

    for name, folder in (("runs and prepared pictures", Path.cwd()), ("cache (FX_CACHE_DIR)", cache_dir())):
        there = next(place for place in (folder, *folder.parents) if place.exists())
        free_gib = shutil.disk_usage(there).free / 2**30
        hint = "" if free_gib >= _LOW_DISK_GIB else "little space: a run takes as much as ten of its model files"
        if not os.access(there, os.W_OK):
            hint = f"cannot be written to: {there}"
        yield Finding("place", name, f"{folder}, {free_gib:.0f} GiB free", hint)
