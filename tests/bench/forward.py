"""Forward passes, training steps and decoding alone: what the machine and the libraries can do without files.

Every function prepares something and returns run() → {"images": pictures that it went through}.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torchvision.models import resnet50

from bench.machine import cores

BATCH = 32
# Multiply-adds of ResNet-50 at 224 px (He et al. 2016 and torchvision's table), two operations each.
RESNET50_FLOP = 2 * 4.09e9

Run = Callable[[], dict[str, int]]


def torch_forward(
    *, bf16: bool = False, channels_last: bool = False, folded: bool = False, compiled: bool = False
) -> Run:
    """ResNet-50 in torch."""
    network: Any = resnet50(num_classes=7).eval()
    images = torch.randn(BATCH, 3, 224, 224)
    if folded:
        _fold(network)
    if channels_last:
        network, images = (value.to(memory_format=torch.channels_last) for value in (network, images))
    if compiled:
        network = torch.compile(network)

    @torch.inference_mode()
    def run() -> dict[str, int]:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
            network(images)
        return {"images": BATCH}

    return run


def _fold(network: nn.Module) -> None:
    """Puts every BatchNorm of a torchvision ResNet into the convolution before it."""
    for module in list(network.modules()):
        for number in ("1", "2", "3"):
            if hasattr(module, f"conv{number}"):
                _fold_pair(module, f"conv{number}", f"bn{number}")
        if isinstance(getattr(module, "downsample", None), nn.Sequential):
            _fold_pair(module.downsample, "0", "1")


def _fold_pair(module: nn.Module, convolution: str, norm: str) -> None:
    fused = fuse_conv_bn_eval(getattr(module, convolution), getattr(module, norm))
    setattr(module, convolution, fused)
    setattr(module, norm, nn.Identity())


def training_step(*, bf16: bool) -> Run:
    """Forward, backward and AdamW of the whole ResNet-50; `bf16` also sets channels_last."""
    network: Any = resnet50(num_classes=7)
    images, targets = torch.randn(BATCH, 3, 224, 224), torch.randint(7, (BATCH,))
    if bf16:
        network, images = (value.to(memory_format=torch.channels_last) for value in (network, images))
    optimizer, criterion = torch.optim.AdamW(network.parameters(), lr=1e-4), nn.CrossEntropyLoss()

    def run() -> dict[str, int]:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
            loss = criterion(network(images), targets)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return {"images": BATCH}

    return run


def matmul_peak(*, side: int = 4096) -> Callable[[], dict[str, float]]:
    """A bf16 matrix product in torch, counted as the ResNet-50 pictures that have as many operations."""
    one, other = (torch.randn(side, side, dtype=torch.bfloat16) for _ in range(2))

    @torch.inference_mode()
    def run() -> dict[str, float]:
        torch.mm(one, other)
        return {"images": 2 * side**3 / RESNET50_FLOP}

    return run


def onnx_file(file: Path) -> None:
    """Writes ResNet-50 as ONNX with a free batch size."""
    batch = torch.export.Dim("batch", min=1, max=1024)
    network, example = resnet50(num_classes=7).eval(), torch.randn(2, 3, 224, 224)
    torch.onnx.export(network, (example,), file, dynamo=True, dynamic_shapes=({0: batch},), verbose=False)


def onnxruntime_forward(*, file: str) -> Run:
    """ONNX Runtime's CPU provider, fp32."""
    import onnxruntime

    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    name, images = session.get_inputs()[0].name, np.random.default_rng(0).random((BATCH, 3, 224, 224), np.float32)

    def run() -> dict[str, int]:
        session.run(None, {name: images})
        return {"images": BATCH}

    return run


def openvino_network(network: nn.Module, size_px: int = 224) -> Any:
    """A network in OpenVINO's form, for requests of one picture."""
    import openvino

    return openvino.convert_model(
        network, input=[1, 3, size_px, size_px], example_input=torch.rand(1, 3, size_px, size_px)
    )


def openvino_compiled(network: Any, precision: str) -> Any:
    """Compiled for the CPU in throughput mode; int8 is what the network itself says, beside `precision`."""
    import openvino

    hints = {"PERFORMANCE_HINT": "THROUGHPUT", "INFERENCE_PRECISION_HINT": {"fp32": "f32", "bf16": "bf16"}[precision]}
    return openvino.Core().compile_model(network, "CPU", hints)


def openvino_int8(network: Any, size_px: int = 224) -> Any:
    """Quantised by NNCF on random pictures: their ranges decide the accuracy, not the speed."""
    import nncf

    pictures = [torch.rand(1, 3, size_px, size_px).numpy() for _ in range(8)]
    return nncf.quantize(network, nncf.Dataset(pictures), subset_size=len(pictures))


def openvino_forward(*, precision: str, int8: bool = False) -> Run:
    """ResNet-50 in OpenVINO, asynchronous."""
    network = openvino_network(resnet50(num_classes=7).eval())
    return _asynchronous(openvino_compiled(openvino_int8(network) if int8 else network, precision))


def openvino_model(*, model: str, precision: str) -> Run:
    """The classifier of a model file of fx in OpenVINO, asynchronous."""
    from fxcli.model import classifier as models
    from fxcli.zoo.plugins import load_zoo

    opened = models.load(Path(model), load_zoo())
    size_px = opened.preprocessing.image_size_px
    return _asynchronous(openvino_compiled(openvino_network(opened.network, size_px), precision))


def _asynchronous(compiled: Any, count: int = 2 * BATCH) -> Run:
    import openvino

    queue = openvino.AsyncInferQueue(compiled)
    shape = tuple(compiled.input(0).shape)
    image = np.random.default_rng(0).random(shape, np.float32)

    def run() -> dict[str, int]:
        for _ in range(count):
            queue.start_async({0: image})
        queue.wait_all()
        return {"images": count}

    return run


def decoding(*, model: str, folder: str) -> Run:
    """fx's way from files to the model's input, on every core and without a model."""
    from fxcli.model import classifier as models
    from fxcli.zoo.plugins import load_zoo

    preprocessing = models.load(Path(model), load_zoo()).preprocessing
    files = sorted(Path(folder).iterdir())

    def run() -> dict[str, int]:
        with ThreadPoolExecutor(cores()) as pool:
            list(pool.map(lambda file: preprocessing.fit(preprocessing.load(file)), files))
        return {"images": len(files)}

    return run
