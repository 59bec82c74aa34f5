"""`fx predict` over 100,000 files: memory, the first row, the rate from beginning to end.

FX_BENCH_LOAD names what is measured, `demo_tiny:100000` if it is not set; with EfficientNet-Lite0, too:
`FX_BENCH_LOAD=demo_tiny:100000,efficientnet_lite0:20000 python -m pytest -m bench -k load -s`.
"""

import os
from pathlib import Path

import pytest

from bench import load, material
from bench.paired import Interval
from bench.report import Aim, Row

pytestmark = pytest.mark.bench

WANTED = [part.split(":") for part in os.environ.get("FX_BENCH_LOAD", "demo_tiny:100000").split(",")]
METHOD = (
    "one run each; a tree of hard links to 300 drawn phantoms of 96 px (demo_tiny, of two convolutions, with "
    "prepared_px 96) or 640 px (all others); resident memory when a tenth of the rows and when all are there"
)


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="this system does not say what a process takes")
@pytest.mark.parametrize(("backbone", "count"), WANTED)
def test_load(part, tmp_path, demo_zoo, backbone, count):
    made = part(f"load, {backbone}", METHOD)
    sizes = {"size_px": 64, "prepared_px": 96} if backbone == "demo_tiny" else {}
    model = material.model_file(tmp_path / "model.safetensors", backbone, **sizes)
    tree = load.tree(tmp_path / "tree", int(count), drawn=300, size_px=sizes.get("prepared_px", 640))
    seen = load.watched(tree, "--model", model, out=tmp_path / "out", plugins=load.plugin(tmp_path / "plugins"))
    assert seen.rows == int(count)
    tenth, whole = seen.memory_mib(0.1), seen.memory_mib(1)
    made.raw |= {
        "seconds": [seen.seconds],
        "seconds to the first row": [seen.first_s],
        "rows/s in each tenth": seen.rates(10),
        "MiB at 1, 10, 50, 100 % of the rows": [seen.memory_mib(frac) for frac in (0.01, 0.1, 0.5, 1)],
    }
    ratio = Interval(whole / tenth, whole / tenth, whole / tenth, 1.0)
    made.rows.append(
        Row(
            f"load, {backbone}",
            f"{count} files, all rows",
            "a tenth of them",
            *(whole, tenth, "MiB", ratio, Aim(1.1, at_most=True), seen.told().replace("\n", "; ")),
        )
    )
