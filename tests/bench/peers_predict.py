"""Peers of `fx predict`: a folder → out/rows.csv, each written as its library's documentation shows.

Every function prepares its model and returns run(folder, out). Weights are random: they do not change the speed.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms
from torchvision.models import ResNet50_Weights, resnet50

NUM_CLASSES = 7
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

Run = Callable[..., None]


def usual_transform() -> transforms.Compose:
    """What nearly every script has."""
    return transforms.Compose(
        [
            transforms.Resize(256),
            transforms.CenterCrop(224),
            transforms.ToTensor(),
            transforms.Normalize(MEAN, STD),
        ]
    )


class Pictures(Dataset[tuple[torch.Tensor, str]]):
    """The pictures of a folder, transformed."""

    def __init__(self, folder: str, transform: Callable[[Image.Image], Any]) -> None:
        self.files, self.transform = pictures(folder), transform

    def __getitem__(self, index: int) -> tuple[torch.Tensor, str]:
        return self.transform(Image.open(self.files[index]).convert("RGB")), self.files[index].name

    def __len__(self) -> int:
        return len(self.files)


def pictures(folder: str) -> list[Path]:
    """The files of a folder, in order."""
    return sorted(Path(folder).glob("*.jpg"))


def write_rows(out: str, rows: Iterable[Sequence[Any]]) -> None:
    """Writes the table."""
    with (Path(out) / "rows.csv").open("w", newline="", encoding="utf-8") as handle:
        csv.writer(handle).writerows(rows)


def probabilities(names: Sequence[str], logits: torch.Tensor) -> list[list[Any]]:
    """Rows of a batch."""
    return [[name, *row] for name, row in zip(names, logits.softmax(1).tolist(), strict=True)]


def plain_batch_1() -> Run:
    """The usual script: one picture after the other, fp32."""
    network, transform = resnet50(num_classes=NUM_CLASSES).eval(), usual_transform()

    @torch.no_grad()
    def run(*, folder: str, out: str) -> None:
        rows = []
        for file in pictures(folder):
            image = transform(Image.open(file).convert("RGB"))
            rows += probabilities([file.name], network(image[None]))
        write_rows(out, rows)

    return run


def plain_loader() -> Run:
    """The usual script with a DataLoader: two processes, batch 32, fp32."""
    return _with_loader(usual_transform(), batch_size=32, workers=2)


def torchvision_reference() -> Run:
    """torchvision's evaluation preset of ResNet-50 in a DataLoader; its default of 16 processes is cut to two cores."""
    return _with_loader(ResNet50_Weights.IMAGENET1K_V2.transforms(), batch_size=32, workers=2)


def _with_loader(transform: Callable[[Image.Image], Any], *, batch_size: int, workers: int) -> Run:
    network = resnet50(num_classes=NUM_CLASSES).eval()

    @torch.inference_mode()
    def run(*, folder: str, out: str) -> None:
        rows = []
        for images, names in DataLoader(Pictures(folder, transform), batch_size=batch_size, num_workers=workers):
            rows += probabilities(names, network(images))
        write_rows(out, rows)

    return run


def timm_script(*, batch_size: int = 256, channels_last: bool = False, bf16: bool = False) -> Run:
    """The loop of timm's inference script by its public API; the defaults are the script's, on a CPU."""
    import timm
    from timm.data import create_dataset, create_loader, resolve_data_config

    network = timm.create_model("resnet50", num_classes=NUM_CLASSES).eval()
    config = resolve_data_config({}, model=network)
    if channels_last:
        network = network.to(memory_format=torch.channels_last)

    @torch.inference_mode()
    def run(*, folder: str, out: str, batch_size: int = batch_size) -> None:
        dataset = create_dataset(name="", root=folder, class_map="")
        loader = create_loader(
            dataset,
            batch_size=batch_size,
            num_workers=2,
            device=torch.device("cpu"),
            **{key: config[key] for key in ("input_size", "interpolation", "mean", "std", "crop_pct")},
        )
        found = []
        for images, _ in loader:
            if channels_last:
                images = images.contiguous(memory_format=torch.channels_last)
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
                logits = network(images)
            values, classes = logits.float().softmax(-1).topk(1)
            found += zip(classes.flatten().tolist(), values.flatten().tolist(), strict=True)
        write_rows(out, [[name, *row] for name, row in zip(dataset.filenames(basename=True), found, strict=True)])

    return run


def onnxruntime_alone(*, file: str) -> Run:
    """ONNX Runtime's CPU provider behind the same DataLoader; `file` holds the exported network."""
    import onnxruntime

    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name

    def run(*, folder: str, out: str) -> None:
        rows = []
        for images, names in DataLoader(Pictures(folder, usual_transform()), batch_size=32, num_workers=2):
            (logits,) = session.run(None, {name: images.numpy()})
            rows += probabilities(names, torch.from_numpy(logits))
        write_rows(out, rows)

    return run


def openvino_alone(*, precision: str) -> Run:
    """OpenVINO's throughput mode: requests of one picture in a queue, decoded in the main thread."""
    import openvino

    from bench.forward import openvino_compiled, openvino_network

    compiled = openvino_compiled(openvino_network(resnet50(num_classes=NUM_CLASSES).eval()), precision)

    def run(*, folder: str, out: str) -> None:
        transform, files = usual_transform(), pictures(folder)
        rows: list[Any] = [None] * len(files)

        def keep(request: Any, index: int) -> None:
            logits = torch.from_numpy(request.get_output_tensor().data.copy())
            (rows[index],) = probabilities([files[index].name], logits)

        queue = openvino.AsyncInferQueue(compiled)
        queue.set_callback(keep)
        for index, file in enumerate(files):
            image = transform(Image.open(file).convert("RGB"))
            queue.start_async({0: image[None].numpy()}, userdata=index)
        queue.wait_all()
        write_rows(out, rows)

    return run
