"""The whole way on the real pictures, as far as CI's time allows; skipped where they are not."""

import csv
import io
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fxcli.cli import app

pytestmark = [pytest.mark.real, pytest.mark.slow]


def fx(*arguments):
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert done.exit_code == 0, done.output
    return done


def test_bone_break_from_folder_to_heat_maps(real_data):
    source = real_data / "bone_break"
    fx("prepare", "bone_break", "--set", f"data.source='{source}'", "--set", "data.prepared_px=256", "--quiet")
    counts = json.loads(Path("prepared/bone_break/fingerprint.json").read_text())["counts"]
    assert {name: row["test"] for name, row in counts.items()} == {
        "avulsion": 14,
        "comminuted": 14,
        "curved": 28,
        "fracture_dislocation": 19,
        "hairline": 10,
        "internal": 27,
        "linear": 28,
    }
    assert sum(row["train"] + row["val"] for row in counts.values()) == 989
    sets = ["model.backbone=efficientnet_lite0", "data.image_size_px=128", "train.epochs=4", "optim.lr=5e-3"]
    fx("train", "baseline", *(part for value in sets for part in ("--set", value)), "--out", "runs/it", "--quiet")
    record = json.loads(fx("evaluate", "runs/it", "--json", "--quiet").stdout)
    # The majority class is 20 %: a frozen backbone that learnt anything is above.
    assert record["figures"]["accuracy"]["value"] > 0.27
    folder = source / "Hairline Fracture" / "Test"
    rows = list(csv.DictReader(io.StringIO(fx("predict", folder, "--cam", "out", "--quiet").stdout)))
    assert len(rows) == len(list(Path("out").iterdir())) == 10
