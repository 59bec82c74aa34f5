"""Heat maps of labelled pictures held against their boxes, for every method and layer. Called by `fx cam --against`.

A model that was trained in folds is held by the networks alone that never saw the picture.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fxcli.console import console
from fxcli.data.boxes import Boxes
from fxcli.data.manifest import Manifest, Row, groups_of
from fxcli.data.preprocess import Cleaned, Preprocessing
from fxcli.errors import DataError, UnreadableImage, UsageError
from fxcli.explain import faithfulness, gradcam, overlay
from fxcli.inference.engines import TorchEngine
from fxcli.inference.measured import members_of
from fxcli.inference.opened import Opened
from fxcli.model import classifier as models
from fxcli.model.classifier import Classifier
from fxcli.model.hardware import Compute
from fxcli.recipe.schema import Model

# Networks that know nothing, which pictures take in turn: one alone is alike, or unlike, by chance.
_DRAWS = 5


@dataclass(frozen=True)
class Holder:
    """What heat maps are made with.

    Attributes:
        members: Networks on the device, in fp32 and eval mode.
        headless: For each draw of random numbers: the members with such a head.
        blanks: For each draw: a network of random numbers.
        stages: Of the backbone, by name, from the input on: those whose maps are held.
        modules: Their last modules.
        preprocessing: Of the pictures, at the size that is asked for.
        compute: Where it computes.
    """

    members: tuple[Classifier, ...]
    headless: tuple[tuple[Classifier, ...], ...]
    blanks: tuple[Classifier, ...]
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
            stages: Names; none: the last stage of each stride from 4 on whose map has four cells a side.

        Raises:
            UsageError: It is exported, has no such stage, or cannot see pictures of this size.
        """
        model = opened.trained("--against")
        seen = replace(model.preprocessing, image_size_px=size_px) if size_px else model.preprocessing
        known = {stage.name: stage for stage in model.spec.stages}
        if unknown := [name for name in stages if name not in known]:
            raise UsageError(f"{model.spec.name} has no stage '{unknown[0]}'", hint=f"its stages: {', '.join(known)}")
        fitting = [name for name, s in known.items() if s.stride >= 4 and seen.image_size_px // s.stride >= 4]
        # Those before the last of a stride tell nearly the same.
        last = {known[name].stride: name for name in fitting or [model.spec.stages[-1].name]}
        chosen = tuple(name for name in known if name in (stages or last.values()))
        engine = opened.pipeline.engine
        compute = engine.compute if isinstance(engine, TorchEngine) else Compute(torch.device("cpu"))
        settings = Model.model_validate_json(json.dumps(model.info["model"]))
        own_px, count = model.preprocessing.image_size_px, len(model.classes)
        blanks = tuple(
            compute.place(models.build(model.spec, settings, own_px, count, seed=seed).eval())
            for seed in range(1, _DRAWS + 1)
        )
        headless = tuple(tuple(_with_head(member, blank) for member in model.members) for blank in blanks)
        modules = tuple(known[name].modules[-1] for name in chosen)
        found = cls(model.members, headless, blanks, chosen, modules, seen, compute)
        if size_px:
            blank = found.batch(np.zeros((size_px, size_px), np.uint8))
            gradcam.check_size(blanks[0], blank, own_px, model.spec.name)
        return found

    def batch(self, view: np.ndarray) -> Tensor:
        """[S, S] uint8 → [1, 3, S, S]."""
        return self.compute.send(self.preprocessing.normalise(torch.from_numpy(np.array(view)[None, None])))

    def answer(self, members: Sequence[int], images: Tensor) -> int:
        """The class that these members, by number, name together."""
        with torch.no_grad():
            return int(torch.stack([self.members[number](images) for number in members]).mean(dim=0).argmax())

    def maps(self, networks: Sequence[Classifier], images: Tensor, target: int) -> dict[tuple[str, str], np.ndarray]:
        """[h, w] ≥ 0 by (method, stage), of the mean over networks."""
        targets = torch.tensor([target], device=images.device)
        found: dict[tuple[str, str], list[np.ndarray]] = {}
        for network in networks:
            layers = [network.backbone.get_submodule(name) for name in self.modules]
            taken = gradcam.taken(network, images, targets, layers)
            for stage, (activation, gradient) in zip(self.stages, taken, strict=True):
                for method, make in gradcam.METHODS.items():
                    made = make(activation, gradient)[0].float().cpu().numpy()
                    found.setdefault((method, stage), []).append(made)
        return {key: np.maximum(np.mean(maps, axis=0), 0) for key, maps in found.items()}


def _with_head(member: Classifier, of: Classifier) -> Classifier:
    """A network with the backbone of one and the head of another."""
    other = Classifier(member.backbone, of.head.in_features, of.head.out_features)
    other.head = of.head
    return other.eval()


@dataclass
class Tally:
    """What pictures gave so far, by method and stage.

    Attributes:
        scores: Of `faithfulness.scored`.
        alike: Rank correlations with a network that knows nothing, by what of it is random: head, or all.
        cells: Of a map's side.
        rows: The pictures.
        failed: Those that could not be read: path and reason.
    """

    scores: dict[tuple[str, str], list[dict[str, float]]] = field(default_factory=dict)
    alike: dict[tuple[str, str], dict[str, list[float]]] = field(default_factory=dict)
    cells: dict[tuple[str, str], int] = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)
    failed: list[tuple[str, str]] = field(default_factory=list)


def held(
    opened: Opened,
    manifest: Manifest,
    rows: Sequence[Row],
    boxes: Mapping[str, Boxes],
    *,
    size_px: int | None,
    stages: Sequence[str],
    target: int | None,
) -> tuple[list[dict[str, Any]], list[tuple[str, str]]]:
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
        rank_correlation by what is random (head, all), the mean over pictures of the map's with that of such a
        network, and rank_correlation_n, the number of those that have one; and what could not be read: path and reason.

    Raises:
        UsageError: See `Holder.of`.
        DataError: Nothing can be read.
    """
    holder, tally = Holder.of(opened, size_px, stages), Tally()
    members = list(members_of(opened, rows))
    for row, numbers in console.progress(zip(rows, members, strict=True), total=len(rows), what="cam"):
        try:
            cleaned = holder.preprocessing.load(manifest.path_of(row))
        except UnreadableImage as error:
            tally.failed.append((row.path, error.reason))
            continue
        tally.rows.append(row)
        _hold(holder, cleaned, boxes[row.path].corners, numbers, target, tally)
    if not tally.rows:
        path, reason = tally.failed[0]
        raise DataError(f"none of {len(rows)} pictures can be read, the first: {reason}", where=manifest.root / path)
    groups = groups_of(tally.rows)
    lines = [
        {
            "method": key[0],
            "stage": key[1],
            "cells": tally.cells[key],
            **faithfulness.summary(values, groups),
            **_alike(tally.alike[key]),
        }
        for key, values in tally.scores.items()
    ]
    return lines, tally.failed


def _hold(
    holder: Holder, cleaned: Cleaned, corners: np.ndarray, numbers: Sequence[int], target: int | None, tally: Tally
) -> None:
    """Holds the maps of one picture against its boxes, in pixels of the original, and against those of chance."""
    images = holder.batch(holder.preprocessing.fit(cleaned))
    chosen = holder.answer(numbers, images) if target is None else target
    maps = holder.maps([holder.members[number] for number in numbers], images, chosen)
    draw = (len(tally.rows) - 1) % len(holder.blanks)
    random = {
        "head": holder.maps([holder.headless[draw][number] for number in numbers], images, chosen),
        "all": holder.maps([holder.blanks[draw]], images, chosen),
    }
    left, top, right, bottom = cleaned.box
    scale = np.tile([(right - left) / cleaned.width_px, (bottom - top) / cleaned.height_px], 2)
    for key, saliency in maps.items():
        heat = overlay.upsampled(saliency, cleaned, holder.preprocessing)
        tally.scores.setdefault(key, []).append(faithfulness.scored(heat, corners * scale))
        tally.cells[key] = saliency.shape[0]
        seen = overlay.cells_on(cleaned, holder.preprocessing, saliency.shape[0])
        for part, others in random.items():
            value = faithfulness.rank_correlation(saliency[seen], others[key][seen])
            tally.alike.setdefault(key, {}).setdefault(part, []).append(value)


def _alike(correlations: Mapping[str, Sequence[float]]) -> dict[str, dict[str, Any]]:
    """Means of what is defined, and of how many pictures: a map without evidence is like and unlike nothing."""
    defined = {part: [value for value in found if not np.isnan(value)] for part, found in correlations.items()}
    return {
        "rank_correlation": {part: float(np.mean(found)) if found else None for part, found in defined.items()},
        "rank_correlation_n": {part: len(found) for part, found in defined.items()},
    }
