"""How many processes were started together, as torchrun tells each of them. Nothing here imports torch."""

from __future__ import annotations

import os

from fxcli.errors import UsageError

_TOLD = ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


def processes() -> int:
    """How many processes are to make one training; 1 where torchrun did not start this one.

    Raises:
        UsageError: The environment says so without what torchrun says, too.
    """
    text = os.environ.get("WORLD_SIZE") or "1"
    if not text.isdecimal() or int(text) < 1:
        raise UsageError(f"WORLD_SIZE is '{text}', which is no number of processes")
    absent = [name for name in _TOLD if not os.environ.get(name)]
    if int(text) > 1 and absent:
        hint = "torchrun sets them all; unset WORLD_SIZE for a training in one process"
        raise UsageError(f"WORLD_SIZE is {text}, and {', '.join(absent)} is not set", hint=hint)
    return int(text)
