"""What the commands that run a model do before all else."""

from __future__ import annotations

import atexit
import gc
import importlib
import sys


def import_torch() -> None:
    """Imports torch and torchvision, and keeps the garbage collector away from them for good.

    They make some 300,000 objects that live as long as the process does. Going through these again and again while
    they are made, and once more at the end, would take a third of the time of `fx predict` with one picture.
    """
    if "torchvision" in sys.modules:
        return
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        importlib.import_module("torchvision")
    finally:
        if was_enabled:
            gc.enable()
    gc.freeze()
    builder = getattr(getattr(sys.modules.get("triton._C.libtriton"), "ir", None), "builder", None)
    if type(builder).__module__ == "nanobind":
        # What GPU builds of torch bring since triton 3.9 tells, on stderr, of all of it that is alive at the very end.
        atexit.register(gc.unfreeze)
