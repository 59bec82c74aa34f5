"""`fx predict --cam`: files → overlay pictures."""

from dataclasses import replace

import pytest

from bench import fx, material, paired
from bench.compare import Wanted, add_rows, seconds_per_picture
from bench.paired import Interval
from bench.report import Aim, Row
from bench.side import opened

pytestmark = pytest.mark.bench

METHOD = (
    "as predict, with an overlay of the same size written for every picture; the correlation is of the unscaled maps "
    "in fp32, its smallest over the pictures"
)
FX_TORCH, FX_BF16 = "fx torch --cam", "fx openvino bf16 --cam"
PEERS = {f"pytorch-grad-cam, batch {size}": ("peers_cam:grad_cam", {"batch_size": size}) for size in (16, 1)}
WANTED = [Wanted(FX_TORCH, tuple(PEERS), Aim(5.5)), Wanted(FX_BF16, tuple(PEERS), Aim(7.5))]


def test_cam(part, repeats, folders, workshop, tmp_path):
    made = part("cam", METHOD)
    model = material.model_file(workshop / "resnet50.safetensors", "resnet50")
    ours = {FX_TORCH: ("fx:predict", {"model": model, "cam": True, "options": ["--precision", "bf16"]})}
    notes = {FX_BF16: fx.lacks("predict", "--engine", "--precision")}
    if not notes[FX_BF16]:
        options = ["--engine", "openvino", "--precision", "bf16"]
        ours[FX_BF16] = ("fx:predict", {"model": model, "cam": True, "options": options})
    with opened(ours | PEERS) as (sides, missing):
        runs = {}
        for name, side in sides.items():
            # pytorch-grad-cam goes back through the network for each picture.
            many = folders.once if name in ours else folders.half
            runs[name] = seconds_per_picture(side, folders.few, many, tmp_path / name)
        add_rows(made, "cam, ResNet-50", paired.rounds(runs, repeats), WANTED, notes | missing)
    with opened({"maps": ("peers_cam:correlation", {"model": model})}) as (sides, missing):
        row = Row("cam, maps", "fx cam", "pytorch-grad-cam", unit="correlation", aim=Aim(0.9999))
        if missing:
            made.rows.append(replace(row, note=missing["maps"]))
            return
        found = sides["maps"].run(folder=folders.few.path, out=str(tmp_path / "maps"))
        value = found["correlation"]
        ratio, note = Interval(value, value, value, 1.0), f"the smallest of {found['pictures']} maps with evidence"
        made.rows.append(replace(row, value=value, ratio=ratio, note=note))
