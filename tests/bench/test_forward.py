"""Forward passes and training steps without files: what is to be had on this machine."""

import os
from statistics import median

import pytest

from bench import paired
from bench.compare import seconds_alone
from bench.forward import onnx_file
from bench.report import Row
from bench.side import opened

pytestmark = pytest.mark.bench

FORWARD = {
    "torch fp32": ("forward:torch_forward", {}),
    "torch fp32, BatchNorm folded": ("forward:torch_forward", {"folded": True}),
    "torch bf16, channels_last": ("forward:torch_forward", {"bf16": True, "channels_last": True}),
    "torch bf16, channels_last, folded": (
        "forward:torch_forward",
        {"bf16": True, "channels_last": True, "folded": True},
    ),
    "OpenVINO fp32": ("forward:openvino_forward", {"precision": "fp32"}),
    "OpenVINO bf16": ("forward:openvino_forward", {"precision": "bf16"}),
    "OpenVINO int8": ("forward:openvino_forward", {"precision": "bf16", "int8": True}),
    "bf16 matrix product, as ResNet-50": ("forward:matmul_peak", {}),
}
COMPILED = {
    "torch bf16, channels_last, compiled": (
        "forward:torch_forward",
        {"bf16": True, "channels_last": True, "compiled": True},
    )
}
STEP = {
    "torch fp32": ("forward:training_step", {"bf16": False}),
    "torch bf16, channels_last": ("forward:training_step", {"bf16": True}),
}


@pytest.mark.filterwarnings("default")
def test_forward(part, repeats, workshop):
    made = part("forward", "batch 32 in torch and ONNX Runtime, 64 requests of one picture in OpenVINO; no files")
    wanted = dict(FORWARD)
    # Compiling takes half a minute.
    if os.environ.get("FX_BENCH_COMPILE"):
        wanted |= COMPILED
    try:
        onnx_file(workshop / "forward.onnx")
        wanted["ONNX Runtime fp32"] = ("forward:onnxruntime_forward", {"file": str(workshop / "forward.onnx")})
    except ImportError as error:
        made.rows.append(Row("forward, ResNet-50", "ONNX Runtime fp32", note=f"not measured: {error}"))
    measure(made, "forward, ResNet-50", wanted, repeats)
    measure(made, "training step, ResNet-50", STEP, repeats)


def measure(made, what, wanted, repeats):
    """Adds a line per side, against the first."""
    with opened(wanted) as (sides, missing):
        times = paired.rounds({name: seconds_alone(side) for name, side in sides.items()}, repeats)
    made.raw |= {f"{what}: {name}, s/picture": values for name, values in times.items()}
    first = next(iter(times))
    for name, values in times.items():
        if name == first:
            made.rows.append(Row(what, name, value=1 / median(values)))
            continue
        ratio = paired.ratio(times[first], values)
        made.rows.append(Row(what, name, first, 1 / median(values), 1 / median(times[first]), ratio=ratio))
    made.rows += [Row(what, name, note=note) for name, note in missing.items()]
