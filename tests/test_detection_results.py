"""README's figures of the detector, made anew of what it found on FracAtlas' validation part."""

import json
from pathlib import Path

import numpy as np
import pytest

from fxcli.data.boxes import Boxes
from fxcli.evaluation.box_table import read_found
from fxcli.evaluation.detection import measured

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "recipes" / "results" / "detect"


@pytest.fixture(scope="module")
def figures():
    found = read_found((RESULTS / "val.csv").read_text(encoding="utf-8"), ["fracture"])
    # [left, top, right, bottom] by picture; those without a box are not listed.
    listed = json.loads((RESULTS / "val-boxes.json").read_text(encoding="utf-8"))
    corners = [np.array(listed.get(each.path, []), np.float32).reshape(-1, 4) for each in found]
    true = [Boxes(each, np.zeros(len(each), np.int64)) for each in corners]
    return measured([each.boxes for each in found], true, ["fracture"], [each.group for each in found])


@pytest.mark.parametrize(
    ("name", "form"),
    [
        ("ap50", "AP50 is **{value:.3f}** [{low:.3f}, {high:.3f}]"),
        ("ap50_95", "(AP50–95 {value:.3f} [{low:.3f}, {high:.3f}])"),
        ("auroc", "The AUROC is {value:.3f} [{low:.3f}, {high:.3f}]"),
        ("sensitivity_at_0.5_fp", "The sensitivity is {value:.2f}"),
    ],
)
def test_readme_tells_what_follows_from_the_boxes(figures, name, form):
    told = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    assert form.format(**figures[name]) in told


def test_it_is_the_whole_part(figures):
    assert (figures["n"], figures["n_positive"], figures["n_boxes"]) == (444, 81, 104)
