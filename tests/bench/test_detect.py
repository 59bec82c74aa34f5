"""`fx predict` with a detector: files → boxes."""

import pytest

from bench import material, paired
from bench.compare import Wanted, add_rows, seconds_per_picture
from bench.report import Aim
from bench.side import opened

pytestmark = pytest.mark.bench

SIZE_PX = 512
PEER = "torchvision Faster R-CNN, reference loop"
FX = {"faster_rcnn": "fx faster_rcnn", "fcos": "fx fcos"}


@pytest.mark.filterwarnings("default")
def test_detect(part, repeats, folders, workshop, tmp_path):
    made = part(
        "detect",
        f"EfficientNet-Lite0 with random weights at {SIZE_PX} px, fp32 on every side, from a folder of files to boxes "
        "on disk; seconds per picture are (time of many pictures - time of a few) / difference of their numbers",
    )
    wanted = {PEER: ("peers_detect:torchvision_reference", {"size_px": SIZE_PX})}
    for name, title in FX.items():
        model = material.detector_file(workshop / f"{name}.safetensors", name, SIZE_PX)
        wanted[title] = ("fx:predict", {"model": model})
    with opened(wanted) as (sides, missing):
        runs = {
            name: seconds_per_picture(side, folders.few, folders.half, tmp_path / name) for name, side in sides.items()
        }
        times = paired.rounds(runs, repeats)
    lines = [Wanted(FX["faster_rcnn"], (PEER,), Aim(2.0)), Wanted(FX["fcos"], (PEER,))]
    add_rows(made, f"detect, EfficientNet-Lite0, {SIZE_PX} px", times, lines, missing)
