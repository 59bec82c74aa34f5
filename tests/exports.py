"""Exports, their answers, and damage to them; for test_export_*."""

import csv

import numpy as np
from typer.testing import CliRunner

from fxcli.cli import app


def fx(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def probabilities(file):
    with file.open(newline="") as handle:
        return np.array([[float(row[f"p_class_{i}"]) for i in range(3)] for row in csv.DictReader(handle)])


def zeroed(data):
    """A block in its middle, as a power cut leaves it: weights, which are read as readily as any."""
    middle = len(data) // 2
    return data[:middle] + bytes(512) + data[middle + 512 :]
