"""How far the faster ways agree with fp32 on many pictures, and which stages of the backbone it depends on.

python tests/bench/rounding.py RUN FOLDER… [--exported FILE…]   every engine, and exported files
python tests/bench/rounding.py RUN FOLDER… --stages             torch bf16 with stages kept in fp32, and its cost
python tests/bench/rounding.py RUN FOLDER… --enlarged 3         JPEG draft mode, on the pictures made 3 times larger
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import functools
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
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
from fxcli.model.hardware import Compute

CPU = torch.device("cpu")

Tell = Callable[[str, Engine, np.ndarray], None]


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
        run = functools.partial(_logits, engine)
        found = list(ordered_map(run, chunks, workers=workers, ahead=2 * workers, begin=begin))
    return np.concatenate(found), len(images) / (time.perf_counter() - started)


def _logits(engine: Engine, images: np.ndarray) -> np.ndarray:
    return engine.run(images).logits.mean(axis=1)


def mixed(trained: TrainedModel, kept: Sequence[str]) -> TorchEngine:
    """The fast engine in bf16, but for the stages that are kept in fp32."""
    classifier = copy.deepcopy(trained.network)
    engine = engines.fast((classifier,), trained.preprocessing, Compute(CPU), trained.spec.stages)
    for stage in trained.spec.stages:
        for module in map(classifier.backbone.get_submodule, stage.modules):
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


def compare_engines(model: str, images: np.ndarray, exported: Sequence[str], tell: Tell) -> None:
    """Each engine as `fx predict` runs it."""
    for name, precision in (("torch", "fp32"), ("torch", "bf16"), ("openvino", "fp32"), ("openvino", "bf16")):
        opened = open_model(model, engine=name, precision=precision, fast=True)
        tell(f"{name} {precision}", opened.pipeline.engine, images)
    for file in exported:
        engine = open_model(file, fast=True).pipeline.engine
        tell(f"{Path(file).name} ({engine.precision})", engine, images)


def compare_stages(trained: TrainedModel, images: np.ndarray, tell: Tell) -> None:
    """bf16 but for one stage, for the first ones, and for the last ones."""
    names = [stage.name for stage in trained.spec.stages]
    kept = [(), *((name,) for name in names), tuple(names[:2]), tuple(names[:3]), tuple(names[-2:]), tuple(names)]
    for stages in kept:
        shown = ", ".join(stages) if set(stages) != set(names) else "all"
        tell(f"bf16, fp32 in: {shown or 'none'}", mixed(trained, stages), images)


def enlarge(folders: Sequence[Path], target: Path, factor: int, count: int = 300) -> list[Path]:
    """Some of the pictures as larger JPEGs."""
    files = scan.pictures(folders)
    made = []
    for number, file in enumerate(files[:: max(1, len(files) // count)]):
        with contextlib.suppress(OSError), Image.open(file) as image:
            grey = image.convert("L")
            made.append(target / f"{number:05d}.jpg")
            grey.resize((grey.width * factor, grey.height * factor), Image.Resampling.BICUBIC).save(
                made[-1], quality=92
            )
    return [file for file in made if file.is_file()]


def main() -> None:
    """See above."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--exported", nargs="*", default=[])
    parser.add_argument("--stages", action="store_true")
    parser.add_argument("--enlarged", type=int)
    asked = parser.parse_args()
    opened = open_model(asked.model, device="cpu")
    if asked.enlarged:
        with tempfile.TemporaryDirectory() as folder:
            files = enlarge(asked.folders, Path(folder), asked.enlarged)
            found, seconds = [], []
            for draft in (False, True):
                started = time.perf_counter()
                found.append(replace(opened.pipeline, draft=draft).logits(files))
                seconds.append(time.perf_counter() - started)
        print(
            f"draft mode, {len(files) / seconds[0]:.1f} → {len(files) / seconds[1]:.1f} images/s",
            compare(*found).told(),
        )
        return
    images = fitted(opened.model.preprocessing, asked.folders)
    exact, rate = logits_of(opened.pipeline.engine, images)
    print(f"{'torch fp32, exact':36} {rate:6.1f} images/s on {len(images)} pictures")

    def tell(name: str, engine: Engine, images: np.ndarray) -> None:
        found, rate = logits_of(engine, images)
        print(f"{name:36} {rate:6.1f} images/s  {compare(exact, found).told()}", flush=True)

    if asked.stages:
        compare_stages(opened.trained("--stages"), images, tell)
    else:
        compare_engines(asked.model, images, asked.exported, tell)


if __name__ == "__main__":
    main()
