"""`fx predict`: files → CSV."""

from statistics import median

import pytest

from bench import fx, material, paired
from bench.compare import Wanted, add_rows, seconds_alone, seconds_per_picture
from bench.forward import onnx_file
from bench.report import Aim, Row
from bench.side import opened

pytestmark = pytest.mark.bench

METHOD = (
    "each side in a warm process of its own, from a folder of files to a table on disk; seconds per picture are "
    "(time of many pictures - time of a few) / difference of their numbers, on every side"
)
FX_TORCH, FX_BF16, FX_INT8, FX_ONNX = "fx torch", "fx openvino bf16", "fx openvino int8", "fx onnxruntime"
PLAIN = ("plain script, batch 1", "plain script, DataLoader")
TIMM, TIMM_BEST = "timm's script as it comes", "timm's script, best flags"
REFERENCE, ORT, OPENVINO = "torchvision reference", "ONNX Runtime alone", "OpenVINO alone, bf16"
TIMM_BATCHES = (8, 16, 32)


def fx_sides(workshop, folders):
    """fx's engines as far as this version has them, and notes for the others."""
    model = material.model_file(workshop / "resnet50.safetensors", "resnet50")
    # Named, for a model with random weights was never trained, so nothing in its file allows bf16 by itself.
    sides, notes = {FX_TORCH: ("fx:predict", {"model": model, "options": ["--precision", "bf16"]})}, {}
    for name, options in ((FX_BF16, ("--engine", "--precision")), (FX_ONNX, ("--engine",))):
        notes[name] = fx.lacks("predict", *options)
        values = ["--engine", name.split()[1], *(["--precision", "bf16"] if name == FX_BF16 else [])]
        if not notes[name]:
            sides[name] = ("fx:predict", {"model": model, "options": values})
    int8, notes[FX_INT8] = material.int8_file(model, workshop / "int8.openvino", folders.once)
    if int8:
        sides[FX_INT8] = ("fx:predict", {"model": int8})
    return sides, notes


def peers(workshop):
    onnx = workshop / "resnet50.onnx"
    sides, notes = {}, {}
    try:
        onnx_file(onnx)
        sides[ORT] = ("peers_predict:onnxruntime_alone", {"file": str(onnx)})
    except ImportError as error:
        notes[ORT] = f"not measured: {error}"
    return sides | {
        PLAIN[0]: ("peers_predict:plain_batch_1", {}),
        PLAIN[1]: ("peers_predict:plain_loader", {}),
        TIMM: ("peers_predict:timm_script", {}),
        TIMM_BEST: ("peers_predict:timm_script", {"channels_last": True, "bf16": True}),
        REFERENCE: ("peers_predict:torchvision_reference", {}),
        OPENVINO: ("peers_predict:openvino_alone", {"precision": "bf16"}),
    }, notes


WANTED = [
    Wanted(FX_TORCH, PLAIN, Aim(2.5)),
    Wanted(FX_BF16, PLAIN, Aim(3.6)),
    Wanted(FX_INT8, PLAIN, Aim(6.2)),
    Wanted(FX_TORCH, (TIMM_BEST,), Aim(1.1)),
    Wanted(FX_BF16, (TIMM_BEST,), Aim(1.35)),
    Wanted(FX_INT8, (TIMM_BEST,), Aim(2.2)),
    Wanted(FX_TORCH, (TIMM,)),
    Wanted(FX_TORCH, (REFERENCE,)),
    Wanted(FX_TORCH, (ORT,)),
    Wanted(FX_TORCH, (OPENVINO,)),
    Wanted(FX_ONNX, (ORT,)),
    Wanted(FX_BF16, (OPENVINO,)),
]


@pytest.mark.filterwarnings("default")
def test_predict(part, repeats, folders, workshop, tmp_path):
    made = part("predict", METHOD)
    ours, notes = fx_sides(workshop, folders)
    theirs, more = peers(workshop)
    with opened(ours | theirs) as (sides, missing):
        runs = {}
        for name, side in sides.items():
            # As many seconds for a fast side as for a slow one: start-up is a smaller part of the difference.
            many = folders.thrice if name in ours else folders.once
            settings = {}
            if name == TIMM_BEST:
                settings["batch_size"] = best_batch(side, folders, tmp_path)
                made.method += f"; timm's best batch size was {settings['batch_size']} of {TIMM_BATCHES}"
            runs[name] = seconds_per_picture(side, folders.few, many, tmp_path / name, **settings)
        times = paired.rounds(runs, repeats)
    add_rows(made, "predict, ResNet-50", times, WANTED, notes | more | missing)


def best_batch(side, folders, tmp_path):
    """Of TIMM_BATCHES, the one with the highest rate."""
    rates = {
        size: seconds_per_picture(side, folders.few, folders.once, tmp_path / f"batch {size}", batch_size=size)()
        for size in TIMM_BATCHES
    }
    return min(rates, key=rates.get)


def test_predict_lite0(part, repeats, folders, workshop, tmp_path):
    made = part("predict_lite0", f"{METHOD}; the bound is 1 / (1 / decoding + 1 / forward), each alone on all cores")
    model = material.model_file(workshop / "lite0.safetensors", "efficientnet_lite0")
    what, side = "predict, EfficientNet-Lite0", "fx openvino"
    note = fx.lacks("predict", "--engine")
    name, options = ("fx torch", []) if note else (side, ["--engine", "openvino", "--precision", "bf16"])
    wanted = {
        name: ("fx:predict", {"model": model, "options": options}),
        "decoding": ("forward:decoding", {"model": model, "folder": folders.thrice.path}),
        "forward": ("forward:openvino_model", {"model": model, "precision": "bf16"}),
    }
    with opened(wanted) as (sides, missing):
        if missing:
            made.rows.append(Row(what, side, "the bound", aim=Aim(0.9), note="; ".join(missing.values())))
            return
        runs = {alone: seconds_alone(sides[alone]) for alone in ("decoding", "forward")}
        runs[name] = seconds_per_picture(sides[name], folders.few, folders.thrice, tmp_path / "out")
        times = paired.rounds(runs, repeats)
    bound = [decode + forward for decode, forward in zip(times["decoding"], times["forward"], strict=True)]
    ratio = paired.ratio(bound, times[name])
    made.raw |= {f"{alone}, s/picture": values for alone, values in times.items()}
    made.rows.append(
        Row(what, name, "the bound", 1 / median(times[name]), 1 / median(bound), ratio=ratio, aim=Aim(0.9), note=note)
    )
    for alone in ("decoding", "forward"):
        made.rows.append(Row(what, f"{alone} alone", value=1 / median(times[alone])))
