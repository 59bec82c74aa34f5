"""Where a result comes from: versions, hardware, plugins, command line, hashes. Nothing here imports torch."""

from __future__ import annotations

import hashlib
import os
import platform
import re
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from fxcli import __version__

if TYPE_CHECKING:
    from fxcli.zoo.plugins import Zoo

PACKAGES = ("torch", "torchvision", "timm", "numpy", "pillow", "scikit-learn", "pluggy", "pydantic", "safetensors")


def now() -> str:
    """The time, UTC, to the second, as ISO 8601."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def describe(zoo: Zoo) -> dict[str, Any]:
    """argv, versions, plugins and hardware, as run.json keeps them."""
    return {
        "fx_version": __version__,
        "argv": sys.argv[1:],
        "python": platform.python_version(),
        "versions": {name: version_of(name) for name in PACKAGES},
        "plugins": {plugin.name: plugin.version for plugin in zoo.plugins if plugin.status == "ok"},
        "hardware": {
            "system": platform.system(),
            "machine": platform.machine(),
            "cores": os.cpu_count(),
        },
    }


def version_of(package: str) -> str | None:
    """Of an installed package; None where it is not."""
    from importlib import metadata

    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def extras() -> dict[str, list[str]]:
    """The packages that each extra of fx brings, by its name; not those for development, and of all others."""
    from importlib import metadata

    found: dict[str, list[str]] = {}
    for line in metadata.requires("fxcli") or []:
        if match := re.fullmatch(r"([A-Za-z0-9._-]+)[^;]*; *extra *== *['\"]([a-z]+)['\"]", line):
            package, extra = match.groups()
            if extra not in ("all", "dev") and package != "fxcli":
                found.setdefault(extra, []).append(package)
    return found


def digest(text: str) -> str:
    """The hex sha256 of a text."""
    return hashlib.sha256(text.encode("utf-8")).hexdigest()
