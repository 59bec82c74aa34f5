"""What very many pictures cost: the rate of one core at what an actor of `fx predict --on ray` does, and what follows.

python tests/bench/cost.py [FOLDER]    on pictures of yours; without it, on 128 drawn phantoms of 640 px

A rate is pictures per second of the processor's time, not of the clock's, so that a machine which does something else
beside it tells nearly the same; but shared caches and hyperthreads make it lower than on a quiet one.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

# Before torch is imported.
os.environ["OMP_NUM_THREADS"] = "1"
# Run as a script, it finds its own folder alone.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch

from bench import load, machine, material
from fxcli.data import scan
from fxcli.inference import shards
from fxcli.inference.opened import open_model
from fxcli.inference.verdict import open_judge
from fxcli.model.hardware import has_bf16

BACKBONES = ("efficientnet_lite0", "resnet50")
DRAWN, WARM = 128, 8
FILMS = (1_000_000, 100_000_000)
LISTED = 200_000
DAY_S = 24 * 3600


def rate(model: str, precision: str, files: list[Path], folder: Path) -> float:
    """Pictures per second of one core."""
    open_one = partial(open_model, device="cpu", precision=precision, fast=True, draft=True)
    judge = open_judge(open_one, model, None, sets=False, abstain=None)
    for part in (files[:WARM], files):
        shard = shards.Shard(tuple(part), tuple(map(str, part)), str(len(part)))
        started = time.process_time()
        shards.write(judge, shard, folder, f"{Path(model).stem}-{precision}")
        seconds = time.process_time() - started
    return len(files) / seconds


def listed_bytes() -> float:
    """What a picture takes in the memory of the command, before Ray gets its copy."""
    before = load.memory_mib(os.getpid())
    files = [Path(f"/archive/hospital/2026/{n // 1000:05d}/study-{n:08d}-wrist.png") for n in range(LISTED)]
    held = files, list(shards.cut((Path(os.path.abspath(file)) for file in files), map(str, files)))
    return (load.memory_mib(os.getpid()) - before) * 2**20 / len(held[0])


def told(name: str, precision: str, per_s: float) -> str:
    """A line of the table: hours of one core, and cores for one day."""
    cells = [f"{films / per_s / 3600:,.0f} h | {math.ceil(films / per_s / DAY_S):,}" for films in FILMS]
    return f"| {name} | {precision} | {per_s:.1f} | {' | '.join(cells)} |"


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path)
    asked = parser.parse_args()
    precisions = ["fp32", *(["bf16"] if has_bf16(torch.device("cpu")) else [])]
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        pictures = asked.folder or load.tree(folder, DRAWN, drawn=DRAWN, size_px=640)
        files = material.spread(scan.pictures([pictures]), DRAWN)
        print(f"{machine.describe()['cpu']}, load average {machine.load()}, {len(files)} pictures\n")
        print("| backbone | precision | pictures/s of a core | 1 M | cores for a day | 100 M | cores for a day |")
        print("|---|---|---|---|---|---|---|")
        for name in BACKBONES:
            model = material.model_file(folder / f"{name}.safetensors", name)
            for precision in precisions:
                print(told(name, precision, rate(model, precision, files, folder)), flush=True)
        size = next(folder.glob(f"{len(files)}.parquet")).stat().st_size / len(files)
        print(f"\n{size:.0f} bytes a row in a shard of {len(files)}, {listed_bytes():.0f} in memory while it is listed")


if __name__ == "__main__":
    main()
