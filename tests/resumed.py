"""Predictions that were stopped, and their rows; for test_predict_resume and _killed."""

import csv
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fxcli.cli import app

PART = Path("out/predictions.csv.part")


def fx(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def predict(*options, code=0):
    done = fx("predict", "raw", "--model", "runs/trained", "--out", "out", *options)
    assert done.exit_code == code, done.output
    return done


def table(file="out/predictions.csv"):
    with open(file, newline="", encoding="utf-8") as handle:
        return list(csv.DictReader(handle))


def assert_same(found, expected):
    """The same rows; the company of others in a batch may move a probability by rounding."""
    columns = [column for column in expected[0] if not column.startswith("p_")]
    assert [[row[column] for column in columns] for row in found] == [
        [row[column] for column in columns] for row in expected
    ]
    for row, other in zip(found, expected, strict=True):
        for column in set(row) - set(columns):
            assert float(row[column] or 0) == pytest.approx(float(other[column] or 0), abs=1e-5)


def pictures(folder):
    return sorted(path.relative_to(folder).as_posix() for path in Path(folder).rglob("*") if path.is_file())
