"""Heat maps of labelled pictures held against their boxes, for every method and layer. Called by `fx cam --against`.

A model that was trained in folds is held by the networks alone that never saw the picture.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from fxcli.console import console
from fxcli.data.boxes import Boxes
from fxcli.data.manifest import Manifest, Row, groups_of, read_manifest
from fxcli.data.preprocess import Cleaned, Preprocessing
from fxcli.errors import UsageError
from fxcli.explain import faithfulness, gradcam, overlay
from fxcli.inference.engines import TorchEngine
from fxcli.inference.opened import Opened
from fxcli.model import classifier as models
from fxcli.model.classifier import Classifier
from fxcli.model.hardware import Compute
from fxcli.recipe.schema import Model
from fxcli.run.directory import Run

# Networks that know nothing: a head of random numbers, and all of it.
RANDOM_PARTS = ("head", "all")
HELD_OUT = "calibration"


@dataclass(frozen=True)
class Holder:
    """What heat maps are made with.

    Attributes:
        members: Networks on the device, in fp32 and eval mode.
        random: By RANDOM_PARTS: a network of the same shape that knows nothing there.
        stages: Of the backbone, by name, from the input on: those whose maps are held.
        preprocessing: Of the pictures, at the size that is asked for.
        compute: Where it computes.
    """

    members: tuple[Classifier, ...]
    random: Mapping[str, Classifier]
    stages: tuple[str, ...]
    modules: tuple[str, ...]
    preprocessing: Preprocessing
    compute: Compute

    @classmethod
    def of(cls, opened: Opened, size_px: int | None, stages: Sequence[str]) -> Holder:
        """Of a model.

        Args:
            opened: It, not made for speed.
            size_px: Of the input; None: the model's own.
            stages: Names; none: all whose map is at most a quarter as wide as the input and at least four cells.

        Raises:
            UsageError: It is exported, or has no such stage.
        """
        model = opened.trained("--against")
        seen = replace(model.preprocessing, image_size_px=size_px) if size_px else model.preprocessing
        known = {stage.name: stage for stage in model.spec.stages}
        if unknown := [name for name in stages if name not in known]:
            raise UsageError(f"{model.spec.name} has no stage '{unknown[0]}'", hint=f"its stages: {', '.join(known)}")
        fitting = [name for name, s in known.items() if s.stride >= 4 and seen.image_size_px // s.stride >= 4]
        # The last stage of each stride alone: those before it tell nearly the same.
        last = {known[name].stride: name for name in fitting}
        chosen = [name for name in known if name in (stages or last.values())]
        engine = opened.pipeline.engine
        compute = engine.compute if isinstance(engine, TorchEngine) else Compute(torch.device("cpu"))
        settings = Model.model_validate_json(json.dumps(model.info["model"]))
        parts = {}
        for part in RANDOM_PARTS:
            network = models.build(model.spec, settings, seen.image_size_px, len(model.classes), seed=1).eval()
            if part == "head":
                network.backbone.load_state_dict(model.classifier.backbone.state_dict())
            parts[part] = compute.place(network)
        modules = tuple(known[name].modules[-1] for name in chosen)
        return cls(model.members, parts, tuple(chosen), modules, seen, compute)

    def maps(self, networks: Sequence[Classifier], cleaned: Cleaned, target: int | None) -> dict[tuple[str, str], Any]:
        """[h, w] by (method, stage), the mean over networks; of a target class, or of the answer."""
        images = self.preprocessing.normalise(torch.from_numpy(np.array(self.preprocessing.fit(cleaned)[None, None])))
        images = self.compute.send(images)
        with torch.no_grad():
            logits = torch.stack([network(images) for network in networks]).mean(dim=0)
        targets = logits.argmax(dim=1) if target is None else torch.tensor([target], device=images.device)
        found: dict[tuple[str, str], list[np.ndarray]] = {}
        for network in networks:
            layers = [network.backbone.get_submodule(name) for name in self.modules]
            for stage, (activation, gradient) in zip(
                self.stages, gradcam.taken(network, images, targets, layers), strict=True
            ):
                for method, make in gradcam.METHODS.items():
                    made = make(activation, gradient)[0].float().cpu().numpy()
                    found.setdefault((method, stage), []).append(made)
        return {key: np.mean(maps, axis=0) for key, maps in found.items()}


def held(
    opened: Opened,
    manifest: Manifest,
    rows: Sequence[Row],
    boxes: Mapping[str, Boxes],
    *,
    size_px: int | None,
    stages: Sequence[str],
    target: int | None,
) -> list[dict[str, Any]]:
    """Holds the heat maps of pictures with boxes against these.

    Args:
        opened: The model.
        manifest: Of the pictures.
        rows: Those that have boxes.
        boxes: By the rows' paths, in pixels of the originals.
        size_px: See `Holder.of`.
        stages: Likewise.
        target: The class to explain; None: the answer.

    Returns:
        A line for each method and stage: method, stage, cells, what `faithfulness.summary` tells, and
        rank_correlation by RANDOM_PARTS, the mean over pictures of the map's with that of such a network.
    """
    holder = Holder.of(opened, size_px, stages)
    by_picture = list(_members(opened, rows, holder))
    scores: dict[tuple[str, str], list[dict[str, float]]] = {}
    alike: dict[tuple[str, str], dict[str, list[float]]] = {}
    cells: dict[tuple[str, str], int] = {}
    for row, networks in console.progress(zip(rows, by_picture, strict=True), total=len(rows), what="cam"):
        cleaned = holder.preprocessing.load(manifest.path_of(row))
        maps = holder.maps(networks, cleaned, target)
        random = {part: holder.maps([network], cleaned, target) for part, network in holder.random.items()}
        left, top, right, bottom = cleaned.box
        scale = np.tile([(right - left) / cleaned.width_px, (bottom - top) / cleaned.height_px], 2)
        for key, saliency in maps.items():
            heat = overlay.upsampled(saliency, cleaned, holder.preprocessing)
            scores.setdefault(key, []).append(faithfulness.scored(heat, boxes[row.path].corners * scale))
            cells[key] = saliency.shape[0]
            for part, others in random.items():
                value = faithfulness.rank_correlation(saliency, others[key])
                alike.setdefault(key, {}).setdefault(part, []).append(value)
    groups = groups_of(rows)
    return [
        {
            "method": method,
            "stage": stage,
            "cells": cells[method, stage],
            **faithfulness.summary(values, groups),
            "rank_correlation": {part: _mean(found) for part, found in alike[method, stage].items()},
        }
        for (method, stage), values in scores.items()
    ]


def _mean(values: Sequence[float]) -> float | None:
    defined = [value for value in values if not np.isnan(value)]
    return float(np.mean(defined)) if defined else None


def _members(opened: Opened, rows: Sequence[Row], holder: Holder) -> Iterator[list[Classifier]]:
    """The networks for each picture: of a model in folds, those that held it out, where any of them saw it."""
    members = opened.model.info.get("members") or [{}]
    folds = [member.get("fold") for member in members]
    by_picture = _folds(opened.run) if opened.run and any(fold is not None for fold in folds) else {}
    for row in rows:
        fold = by_picture.get(row.sha256)
        chosen = [m for m, its in zip(holder.members, folds, strict=True) if fold is None or its == fold]
        yield chosen


def _folds(run: Run) -> dict[str, int]:
    """By the hash of its raw file: the fold that held a picture out."""
    found: dict[str, int] = {}
    for file in sorted(run.path.rglob("folds/*/manifest.csv")):
        part = read_manifest(file, root=run.manifest_file.parent)
        found |= {row.sha256: int(file.parent.name) for row in part.rows if row.split == HELD_OUT and row.sha256}
    return found
