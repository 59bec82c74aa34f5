"""Very many files: memory stays, rows come at once and steadily, and none is missing. For 100,000: bench/test_load."""

import csv
import sys
from pathlib import Path

import pytest
from bench import load, material

COUNT = 5_000

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="this system does not say what a process takes"),
]


@pytest.fixture
def watched(tmp_path, demo_zoo):
    model = material.model_file(tmp_path / "model.safetensors", "demo_tiny", size_px=64, prepared_px=96)
    tree = load.tree(tmp_path / "tree", COUNT, drawn=60)
    plugins = load.plugin(tmp_path / "plugins")

    def run(*options):
        return load.watched(tree, "--model", model, *options, out=tmp_path / "out", plugins=plugins)

    return run


def test_memory_does_not_grow_with_the_number_of_files(watched, tmp_path):
    seen = watched()
    print(f"\n{seen.told()}", file=sys.stderr)
    assert seen.rows == COUNT
    with (tmp_path / "out" / "predictions.csv").open(newline="", encoding="utf-8") as handle:
        rows = list(csv.DictReader(handle))
    expected = sorted(str(path) for path in (tmp_path / "tree" / "files").rglob("*.png"))
    assert [row["path"] for row in rows] == expected
    assert {row["status"] for row in rows} == {"ok"}
    # A decoded picture that were kept would be 9 KiB: 40 MiB in all.
    assert seen.memory_mib(1) - seen.memory_mib(0.1) < 10
    # Two seconds on an idle machine, most of them for torch.
    assert seen.first_s < 60
    rates = seen.rates(4)
    assert min(rates) > max(rates) / 4


def test_with_heat_maps_too(watched, tmp_path):
    seen = watched("--cam", tmp_path / "maps")
    print(f"\n{seen.told()}", file=sys.stderr)
    assert seen.rows == COUNT
    assert sum(1 for _ in (tmp_path / "maps").rglob("*.png")) == COUNT
    assert seen.memory_mib(1) - seen.memory_mib(0.1) < 10
