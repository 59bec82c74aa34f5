"""`fx cam`: Grad-CAM of chosen pictures for a chosen class."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fxcli.commands.options import BatchSize, Debug, Device, Json, Model, Quiet, Workers
from fxcli.console import console
from fxcli.errors import SomeRowsFailed, UsageError

if TYPE_CHECKING:
    from torch import Tensor

    from fxcli.inference.opened import Opened
    from fxcli.inference.pipeline import Answer


def cam(
    paths: Annotated[list[Path], typer.Argument(metavar="PATH…", help="Pictures, or folders of them.")],
    model: Model = None,
    target: Annotated[
        str | None,
        typer.Option("--target", metavar="CLASS", help="The class to explain; default: the answer."),
    ] = None,
    layer: Annotated[
        str | None,
        typer.Option("--layer", metavar="STAGE", help="A stage of the backbone; default: its output."),
    ] = None,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder that the output goes to.")] = Path("cam"),
    device: Device = None,
    workers: Workers = None,
    batch_size: BatchSize = None,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Shows what spoke for a class: per picture an overlay, the unscaled map, and both pictures side by side.

    Writes NAME.overlay.png, NAME.map.npy (float32 [h, w], in logits) and NAME.png below --out; numbers on stdout.

    Example: fx cam wrist.png --model runs/final-20260101T120000Z-1a2b --target hairline --out why/
    """
    console.configure(json=json, quiet=quiet, debug=debug)
    from fxcli.data import scan
    from fxcli.evaluation.predictions import notice
    from fxcli.inference.opened import open_model

    opened = open_model(model, device=device, workers=workers, batch_size=batch_size)
    chosen = _target(opened, target)
    files = scan.pictures(paths)
    failed = 0
    columns = ["path", "status", "reason", "target", "p", "max", "sum", "notice"]
    if not json:
        console.data(_line(columns))
    answers = opened.pipeline.run(files, keep_maps=True)
    for answer, name in zip(console.progress(answers, total=len(files), what="cam"), _names(files), strict=True):
        values: list[object] = [str(answer.path), "error", answer.reason, target or "", "", "", ""]
        if answer.logits is None:
            failed += 1
        else:
            values = [str(answer.path), "ok", "", *_write(opened, answer, chosen, layer, out / name)]
        values.append(notice(demo=opened.model.is_demo))
        if json:
            console.record(dict(zip(columns, values, strict=True)))
        else:
            console.data(_line(values))
    console.note(f"heat maps in {out}")
    if failed:
        raise SomeRowsFailed(failed, len(files), "the output")


def _target(opened: Opened, target: str | None) -> int | None:
    if target is None:
        return None
    if target not in opened.model.classes:
        raise UsageError(f"the model has no class '{target}'", hint=f"its classes: {', '.join(opened.model.classes)}")
    return opened.model.classes.index(target)


def _write(opened: Opened, answer: Answer, target: int | None, layer: str | None, stem: Path) -> list[object]:
    import numpy as np

    from fxcli.explain.draw import draw_answer

    saliency = _at_stage(opened, answer, target, layer) if layer else None
    made = draw_answer(opened.model, answer, target=target, saliency=saliency)
    stem.parent.mkdir(parents=True, exist_ok=True)
    made.overlay.save(f"{stem}.overlay.png")
    made.pair.save(f"{stem}.png")
    np.save(f"{stem}.map.npy", made.saliency, allow_pickle=False)
    maximum, total = float(made.saliency.max()), float(made.saliency.sum())
    name = opened.model.classes[made.target]
    return [name, round(made.probability, 6), round(maximum, 6), round(total, 6)]


def _at_stage(opened: Opened, answer: Answer, target: int | None, layer: str) -> Tensor:
    import torch

    from fxcli.explain.gradcam import at_layer

    model, pipeline = opened.model, opened.pipeline
    stages = {stage.name: stage for stage in model.spec.stages}
    if layer not in stages:
        raise UsageError(f"{model.spec.name} has no stage '{layer}'", hint=f"its stages: {', '.join(stages)}")
    if answer.cleaned is None or answer.logits is None:
        raise UsageError("no picture")
    fitted = torch.from_numpy(pipeline.preprocessing.fit(answer.cleaned).copy())[None, None]
    images = pipeline.compute.send(pipeline.preprocessing.normalise(fitted))
    chosen = int(answer.logits.argmax()) if target is None else target
    module = model.classifier.backbone.get_submodule(stages[layer].modules[-1])
    return at_layer(model.classifier, images, torch.tensor([chosen], device=images.device), module)[0]


def _names(files: list[Path]) -> list[str]:
    """A name for each picture's outputs; a running number keeps equal names apart."""
    counts: dict[str, int] = {}
    names = []
    for path in files:
        counts[path.name] = counts.get(path.name, 0) + 1
        names.append(path.name if counts[path.name] == 1 else f"{path.name}-{counts[path.name]}")
    return names


def _line(values: list[object] | list[str]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="").writerow(values)
    return text.getvalue()
