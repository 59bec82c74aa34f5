"""Ctrl-C in the middle of a training, for tests of what is saved and how it goes on."""

from __future__ import annotations

import signal

from fxcli.training import loop


def stop_after(patch, count):
    """Asks the loop to stop after `count` optimizer steps, as Ctrl-C would, for as long as `patch` holds."""
    real, steps = loop._step, []

    def step(*arguments):
        real(*arguments)
        steps.append(1)
        if len(steps) == count:
            signal.raise_signal(signal.SIGINT)

    patch.setattr(loop, "_step", step)
