"""Predictions of twelve files without a network, and what they write; for test_inference_rows and _killed."""

import csv
import os
import time
from pathlib import Path

import numpy as np
import pytest

from fxcli.evaluation.lines import Lines
from fxcli.evaluation.predictions import PredictionTable
from fxcli.inference import rows as output

OUT, FILE, PART, NOTES = (
    Path("out", *name) for name in ((), ("predictions.csv",), ("predictions.csv.part",), ("predictions.csv.part.json",))
)
MADE_WITH = {"model": "abc", "abstain": None, "sets": False}


def twelve():
    """Twelve pictures that were there before the prediction began."""
    made = [Path("in") / f"{letter}.png" for letter in "abcdefghijkl"]
    Path("in").mkdir()
    for path in made:
        path.touch()
    # The system's clock for files ticks a few hundred times a second.
    time.sleep(0.02)
    return made


class Stopped(Exception):
    pass


def going(json=False, made_with=MADE_WITH, extra=(), **options):
    lines = Lines(PredictionTable(["x", "y"], {"name": "m"}, extra=extra), json=json)
    return output.going_to(OUT, lines, made_with, **{"resume": False, "overwrite": False, **options})


def nothing():
    pass


def predict(
    files, *, stop_after=None, failing=(), drawn=lambda index, is_answer: True, mark=0.75, at_last=nothing, **options
):
    """Writes what is missing, as the command does; which indices that was."""
    with going(**options) as rows:
        todo = list(rows.missing(files, str, drawn))
        for number, index in enumerate(todo):
            if number == stop_after:
                raise Stopped
            status = "error" if files[index].name in failing else "ok"
            probabilities = np.array([1 - mark, mark]) if status == "ok" else None
            reason = "bad" if status == "error" else ""
            table = PredictionTable(["x", "y"], {"name": "m"})
            rows.write(table.record(str(files[index]), status=status, reason=reason, probabilities=probabilities))
        at_last()
        rows.finish()
    return todo, rows.failed


def stopped(files, after, **options):
    with pytest.raises(Stopped):
        predict(files, stop_after=after, **options)


def table(file=FILE):
    with file.open(newline="", encoding="utf-8") as handle:
        return list(csv.DictReader(handle))


def shown(file=FILE):
    return [row["path"] for row in table(file)]


def names():
    return sorted(os.listdir("out"))
