"""Describes the machine that the figures hold for, and says whether it was quiet."""

from __future__ import annotations

import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

# Load average of a machine that does something else beside the benchmark.
QUIET_LOAD = 0.5

# What decides which kernels the libraries choose.
_FLAGS = (
    "avx2",
    "avx512f",
    "avx512_bf16",
    "avx512_vnni",
    "avx_vnni",
    "amx_bf16",
    "amx_int8",
    "asimd",
    "bf16",
    "i8mm",
)
_PACKAGES = (
    "fxcli",
    "torch",
    "torchvision",
    "timm",
    "grad-cam",
    "onnx",
    "onnxruntime",
    "openvino",
    "nncf",
    "numpy",
    "pillow",
    "opencv-python-headless",
    "opencv-python",
)


def describe() -> dict[str, Any]:
    """Processor, memory, system and versions; equal for two runs on the same machine with the same packages."""
    return {
        "cpu": _cpu_field("model name") or platform.processor() or platform.machine(),
        "cpu_family_model_stepping": [_cpu_field(name) for name in ("cpu family", "model", "stepping")],
        "flags": [flag for flag in _FLAGS if flag in (_cpu_field("flags") or _cpu_field("Features")).split()],
        "cores": cores(),
        "memory_gib": _memory_gib(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": sys.version.split()[0],
        "packages": {name: found for name in _PACKAGES if (found := _version(name))},
    }


def cores() -> int:
    """Cores that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def load() -> float | None:
    """Load average of the last minute; None where the system has none."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


def is_quiet(load_average: float | None) -> bool:
    """Whether nothing else seemed to run."""
    return load_average is None or load_average <= QUIET_LOAD


def _cpu_field(name: str) -> str:
    file = Path("/proc/cpuinfo")
    if not file.is_file():
        return ""
    for line in file.read_text(encoding="utf-8").splitlines():
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return ""


def _memory_gib() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (AttributeError, OSError, ValueError):
        return None


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
