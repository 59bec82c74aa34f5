"""How far bf16 and the other engines agree with fp32 on many pictures, and which stages of the backbone it depends on.

python tests/bench/rounding.py RUN FOLDER…        every engine, on every picture of the folders
python tests/bench/rounding.py RUN FOLDER… --stages   torch bf16 with stages kept in fp32, and what that costs
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from fxcli.data import scan
from fxcli.data.preprocess import Preprocessing
from fxcli.errors import UnreadableImage
from fxcli.evaluation.agreement import compare
from fxcli.inference import engines
from fxcli.inference.engines import Engine, TorchEngine
from fxcli.inference.opened import open_model
from fxcli.inference.pipeline import ordered_map
from fxcli.model.classifier import TrainedModel
from fxcli.model.freeze import stage_modules
from fxcli.model.hardware import Compute

CPU = torch.device("cpu")


def fitted(preprocessing: Preprocessing, folders: Sequence[Path]) -> np.ndarray:
    """[N, 1, S, S] uint8: every readable picture below the folders."""

    def decode(path: Path) -> np.ndarray | None:
        with contextlib.suppress(UnreadableImage):
            return preprocessing.fit(preprocessing.load(path))[None]
        return None

    found = [image for image in ordered_map(decode, scan.pictures(folders), workers=2, ahead=8) if image is not None]
    return np.stack(found)


def logits_of(engine: Engine, images: np.ndarray) -> tuple[np.ndarray, float]:
    """[N, K], and pictures per second."""
    chunks = [images[start : start + 8] for start in range(0, len(images), 8)]
    started = time.perf_counter()
    with engine.shared_by(engine.streams) as begin:
        workers = engine.streams
        found = list(
            ordered_map(lambda chunk: engine.run(chunk)[0], chunks, workers=workers, ahead=2 * workers, begin=begin)
        )
    return np.concatenate(found), len(images) / (time.perf_counter() - started)


def mixed(trained: TrainedModel, kept: Sequence[str]) -> TorchEngine:
    """The fast engine in bf16, but for the stages that are kept in fp32."""
    classifier = copy.deepcopy(trained.classifier)
    engine = engines.fast(classifier, trained.preprocessing, Compute(CPU))
    for stage, modules in zip(trained.spec.stages, stage_modules(classifier.backbone, trained.spec), strict=True):
        for module in modules:
            if stage.name in kept:
                _in_fp32(module)
                continue
            for layer in module.modules():
                if isinstance(layer, nn.Conv2d | nn.Linear):
                    layer.to(torch.bfloat16)
    return replace(engine, compute=replace(engine.compute, precision="bf16"))


def _in_fp32(module: nn.Module) -> None:
    forward = module.forward

    def computed(*inputs: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", enabled=False):
            return forward(*(each.float() for each in inputs))

    module.forward = computed  # type: ignore[method-assign]


def main() -> None:
    """See above."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--stages", action="store_true")
    asked = parser.parse_args()
    opened = open_model(asked.model, device="cpu")
    images = fitted(opened.model.preprocessing, asked.folders)
    exact, rate = logits_of(opened.pipeline.engine, images)
    print(f"{'torch fp32, exact':36} {rate:6.1f} images/s on {len(images)} pictures")

    def tell(name: str, engine: Engine) -> None:
        found, rate = logits_of(engine, images)
        print(f"{name:36} {rate:6.1f} images/s  {compare(exact, found).told()}", flush=True)

    if not asked.stages:
        for name, precision in (("torch", "fp32"), ("torch", "bf16"), ("openvino", "fp32"), ("openvino", "bf16")):
            other = open_model(asked.model, engine=name, precision=precision, fast=True)
            tell(f"{name} {precision}, as predict runs it", other.pipeline.engine)
        return
    trained = opened.trained("--stages")
    names = [stage.name for stage in trained.spec.stages]
    kept = [(), *((name,) for name in names), tuple(names[:2]), tuple(names[:3]), tuple(names[-2:]), tuple(names)]
    for stages in kept:
        tell(f"fp32: {', '.join(stages) if set(stages) != set(names) else 'all'}", mixed(trained, stages))


if __name__ == "__main__":
    main()
