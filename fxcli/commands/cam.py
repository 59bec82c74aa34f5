"""`fx cam`: heat maps of chosen pictures for a chosen class."""

from __future__ import annotations

import contextlib
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fxcli.commands.options import BatchSize, Debug, Device, Json, Model, Paths, Quiet, Workers
from fxcli.commands.startup import import_torch
from fxcli.console import console
from fxcli.data.paths import PathStyle
from fxcli.errors import SomeRowsFailed, UsageError

if TYPE_CHECKING:
    from fxcli.explain.draw import Explainer
    from fxcli.inference.opened import Opened
    from fxcli.inference.pipeline import Answer


class Method(StrEnum):
    """Those of explain.gradcam."""

    gradcam = "gradcam"
    gradcam_plus_plus = "gradcam++"
    layercam = "layercam"


def cam(
    paths: Annotated[
        list[Path] | None, typer.Argument(metavar="PATH…", help="Pictures, or folders of them; not with --against.")
    ] = None,
    model: Model = None,
    target: Annotated[
        str | None,
        typer.Option("--target", metavar="CLASS", help="The class to explain; default: the answer."),
    ] = None,
    layer: Annotated[
        str | None,
        typer.Option("--layer", metavar="STAGE", help="A stage of the backbone, on one thread; default: its output."),
    ] = None,
    method: Annotated[
        Method | None, typer.Option("--method", help="With --layer: how its maps are made; default: gradcam.")
    ] = None,
    against: Annotated[
        Path | None,
        typer.Option("--against", metavar="BOXES", help="Hold maps against the boxes.coco.json of a prepared folder."),
    ] = None,
    split: Annotated[
        str | None, typer.Option("--split", help="With --against: train, val, calibration or test; default: all.")
    ] = None,
    size: Annotated[
        int | None,
        typer.Option(
            "--size",
            metavar="PX",
            # As zoo/specs has them, which would make --help import pydantic.
            min=32,
            max=2048,
            help="With --layer or --against: size of the input that is explained; default: the model's.",
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Folder that the output goes to; default: cam.")
    ] = None,
    named: Paths = PathStyle.GIVEN,
    device: Device = None,
    workers: Workers = None,
    batch_size: BatchSize = None,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Shows what spoke for a class: per picture an overlay, the unscaled map, and both pictures side by side.

    Writes NAME.overlay.png, NAME.map.npy (float32 [h, w]; in logits, but at --layer) and NAME.png below --out, in
    folders as the pictures are; numbers on stdout.

    --against says whether such maps are to be believed, and which: Grad-CAM, Grad-CAM++ and LayerCAM at several stages
    are held against boxes. Pointing is the share of maps whose maximum lies in a box, energy the share of a map within
    boxes; each over that of a random map, and of a bump in the middle of the picture. The rank correlation with maps of
    networks that know nothing (a random head, a random network) is to be low. Of a model that was trained in folds, the
    networks alone that never saw a picture are held against its boxes.

    Example: fx cam wrist.png --model runs/final-20260101T120000Z-1a2b --target hairline --out why/

    Example: fx cam folder/ --model fracatlas --target fracture --layer stage5 --method layercam --size 448

    Example: fx cam --against prepared/fracatlas_boxes/boxes.coco.json --split val --model fracatlas --target fracture
    """
    console.configure(json=json, quiet=quiet, debug=debug)
    if against is not None:
        if paths:
            raise UsageError("--against takes the pictures from the prepared folder: no PATH beside it")
        if out or workers or batch_size or named is not PathStyle.GIVEN:
            raise UsageError("--against writes no pictures: no --out, --paths, --workers or --batch-size beside it")
        if method:
            raise UsageError("--against holds maps of all methods: no --method beside it")
        from fxcli.commands.against import hold

        hold(against, split=split, size_px=size, model=model, stage=layer, target=target, device=device, json=json)
        return
    if not paths:
        raise UsageError("no pictures", hint="fx cam PATH…")
    if layer is not None and workers:
        raise UsageError("--layer looks at one picture after the other: no --workers beside it")
    out = out or Path("cam")
    if split is not None:
        raise UsageError("--split goes with --against BOXES")
    if (method or size) and layer is None:
        raise UsageError("--method and --size go with --layer STAGE", hint="fx plugins --json names the stages")
    import_torch()
    from fxcli.data import scan
    from fxcli.data.names import path_cell
    from fxcli.data.paths import Shown
    from fxcli.data.radiograph import Caution, warn_of
    from fxcli.evaluation.predictions import assumes_fracture, notice
    from fxcli.evaluation.table import csv_line
    from fxcli.explain.places import check_places, output_names, pictures_beside
    from fxcli.inference.opened import open_model

    # At a layer the gradient is taken through hooks, which only one forward pass at a time may meet.
    opened = open_model(model, device=device, workers=workers if layer is None else 0, batch_size=batch_size)
    chosen = _target(opened, target)
    explainer = None if layer is None else _explainer(opened, layer, method or Method.gradcam, size)
    files = pictures_beside(out, scan.pictures(paths))
    shown_as = Shown.of(named, files)
    names = output_names(files, shown_as)
    check_places((out / f"{name}{suffix}" for name in names for suffix in (".overlay.png", ".png")), files)
    failed, cautions = 0, list[Caution]()
    columns = ["path", "status", "reason", "target", "p", "max", "sum", "assumes_fracture", "notice"]
    if not json:
        console.data(csv_line(columns))

    def drawn(answer: Answer) -> tuple[Answer, list[object]]:
        shown = path_cell(shown_as(answer.path))
        if answer.logits is None:
            return answer, [shown, "error", answer.reason, target or "", "", "", ""]
        reason = "; ".join(answer.cautions)
        return answer.row, [shown, "ok", reason, *_write(opened, answer, chosen, explainer, out / names[answer.index])]

    with contextlib.closing(opened.pipeline.map(drawn, files)) as answers:
        for answer, values in console.progress(answers, total=len(files), what="cam"):
            failed += answer.logits is None
            cautions += answer.cautions
            info = opened.model.info
            if json:
                row = dict(zip(columns, [*values, assumes_fracture(info), notice(info)], strict=True))
                console.record({key: value for key, value in row.items() if value != ""})
            else:
                console.data(csv_line([*values, str(assumes_fracture(info)).lower(), notice(info)]))
    warn_of(cautions)
    console.note(f"heat maps in {out}")
    if failed:
        raise SomeRowsFailed(failed, len(files), "the output")


def _explainer(opened: Opened, layer: str, method: Method, size_px: int | None) -> Explainer:
    from fxcli.explain.draw import at_stage
    from fxcli.inference.engines import TorchEngine

    spec, engine = opened.trained("--layer").spec, opened.pipeline.engine
    if not isinstance(engine, TorchEngine):
        raise UsageError(f"--layer needs torch, not {engine.name}")
    return at_stage(engine, spec, layer, method.value, size_px)


def _target(opened: Opened, target: str | None) -> int | None:
    if target is None:
        return None
    if target not in opened.model.classes:
        raise UsageError(f"the model has no class '{target}'", hint=f"its classes: {', '.join(opened.model.classes)}")
    return opened.model.classes.index(target)


def _write(opened: Opened, answer: Answer, target: int | None, explainer: Explainer | None, stem: Path) -> list[object]:
    import numpy as np

    from fxcli.explain.draw import draw_answer
    from fxcli.run.cache import storing
    from fxcli.run.files import saying

    made = draw_answer(opened, answer, target=target, explainer=explainer)
    with saying(stem):
        stem.parent.mkdir(parents=True, exist_ok=True)
        made.save_overlay(Path(f"{stem}.overlay.png"))
        made.save_pair(Path(f"{stem}.png"))
        with storing(Path(f"{stem}.map.npy")) as part, part.open("wb") as handle:
            np.save(handle, made.saliency, allow_pickle=False)
    maximum, total = float(made.saliency.max()), float(made.saliency.sum())
    name = opened.model.classes[made.target]
    return [name, round(made.probability, 6), round(maximum, 6), round(total, 6)]
