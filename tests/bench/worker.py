"""Child process of one side: makes it, says that it is ready, then runs and times it whenever it is asked to.

Started by `side.Side` as `python -m bench.worker MODULE:FUNCTION SETTINGS`. FUNCTION(**settings) prepares the side
(imports, model) and returns what is timed: run(**task) → None, or a dict of further figures. One line of JSON per
answer; whatever the side itself prints goes to stderr.
"""

from __future__ import annotations

import json
import os
import sys
import time
import traceback
from importlib import import_module


def main() -> None:
    """Serves until stdin ends."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def answer(**values: object) -> None:
        answers.write(json.dumps(values) + "\n")
        answers.flush()

    name, settings = sys.argv[1:]
    module, function = name.split(":")
    try:
        run = getattr(import_module(module), function)(**json.loads(settings))
    except ModuleNotFoundError as error:
        answer(missing=error.name)
        return
    except Exception:
        answer(error=traceback.format_exc())
        return
    answer(ready=True)
    for line in sys.stdin:
        try:
            started = time.perf_counter()
            values = run(**json.loads(line))
            seconds = time.perf_counter() - started
        except Exception:
            answer(error=traceback.format_exc())
            continue
        answer(**{"seconds": seconds, **(values or {})})


if __name__ == "__main__":
    main()
