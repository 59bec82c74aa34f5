"""A recipe for prepared pictures, as a text with its reasons: what `fx recipe new` prints and `fx train FOLDER` runs.

Rules of thumb, each beside what it sets; the pictures' number, sizes and classes decide. Nothing here is measured.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import dataclass

from fxcli.data.manifest import HELD_OUT, Manifest, groups_of
from fxcli.data.split import CALIBRATION_GROUPS
from fxcli.errors import DataError
from fxcli.zoo.specs import BackboneSpec

# What `fx train FOLDER` calls it, beside the manifest.
RECIPE = "train.yaml"

_SIDES_PX = (512, 416, 320, 224)
# Of recipes/best, which was chosen on so many pictures, with so many epochs of its second phase.
_BEST_PICTURES, _BEST_EPOCHS = 734, 12
# Above so many, a CPU is given small ones: time grows with their number and their area.
_MANY_PICTURES = 5000
# Times as many pictures of the largest class as of the smallest, from which on the loss makes up for it.
_UNEVEN = 3


@dataclass(frozen=True)
class Means:
    """What a training has at hand.

    Attributes:
        spec: Of the backbone.
        init: Its start.
        why: This backbone, in words.
        has_gpu: Whether there is a GPU.
    """

    spec: BackboneSpec
    init: str
    why: str
    has_gpu: bool


def draft(name: str, manifest: Manifest, shown: str, means: Means) -> str:
    """YAML of a recipe with task: classify, with comments.

    Args:
        name: Of the recipe.
        manifest: Of the pictures.
        shown: Its path, as the recipe is to name it.
        means: What a training has at hand.

    Raises:
        DataError: There is nothing to learn from.
    """
    manifest.require_labels()
    rows = manifest.part("train")
    sizes = Counter(row.label for row in rows)
    if len(sizes) < 2:
        what = f"training pictures of {len(sizes)} classes: there is nothing to tell apart"
        raise DataError(what, where=manifest.file)
    count, groups = len(rows), len(set(groups_of(rows)))
    (largest, most), (smallest, least) = sizes.most_common()[0], sizes.most_common()[-1]
    lines = [
        f"# {name} — drafted for {count} training pictures of {len(sizes)} classes, in {groups} groups",
        "# fx train, and the name of this file",
        f"name: {json.dumps(name)}",
        "extends: best # the head first, then gently the deeper stages",
        "data:",
        f"  manifest: {json.dumps(shown, ensure_ascii=False)}",
        *_side(manifest, count, means),
        "model:",
        f"  backbone: {json.dumps(means.spec.name)} # {means.why}",
        f"  init: {json.dumps(means.init)}",
    ]
    train = []
    if count < 10 * 32:
        train.append(f"  batch_size: {max(4, 2 ** round(math.log2(count / 20)))} # about twenty steps an epoch")
    if most >= _UNEVEN * least:
        train.append(f"  class_weights: balanced # {most} pictures of {largest}, {least} of {smallest}")
    if train:
        lines += ["train:", *train]
    epochs = max(3, min(_BEST_EPOCHS, round(_BEST_EPOCHS * math.sqrt(_BEST_PICTURES / count))))
    freeze = json.dumps(f"until:{_frozen(means.spec)}")
    lines += ["phases:", "  deep:", f"    model: {{freeze: {freeze}}} # edges and textures are as ImageNet's are"]
    if epochs < _BEST_EPOCHS:
        lines.append(f"    train: {{epochs: {epochs}}} # best's {_BEST_EPOCHS} are for {_BEST_PICTURES} pictures")
    kinds = Counter(label for label, _ in set(zip([row.label for row in rows], groups_of(rows), strict=True)))
    return "\n".join([*lines, *_ensemble(manifest, groups, min(kinds.values())), ""])


def _side(manifest: Manifest, count: int, means: Means) -> list[str]:
    prepared_px = manifest.clean().prepared_px
    longer = sorted(max(row.width_px, row.height_px) for row in manifest.rows)
    median = longer[len(longer) // 2] or prepared_px
    most = _SIDES_PX[0] if means.has_gpu else _SIDES_PX[3] if count > _MANY_PICTURES else _SIDES_PX[2]
    side = next((px for px in _SIDES_PX if px <= min(median, prepared_px, most)), _SIDES_PX[-1])
    if side < most and prepared_px <= median:
        why = f"pictures were prepared at {prepared_px} px"
    elif side < most:
        why = f"half of the pictures are no longer than {median} px"
    elif means.has_gpu:
        why = "fractures are small: as large as pays"
    else:
        why = f"larger is slower; a GPU would take {_SIDES_PX[0]}"
    return [f"  image_size_px: {side} # {why}"]


def _frozen(spec: BackboneSpec) -> str:
    """The last stage that sees no more than details; never the last of all."""
    fine = [stage.name for stage in spec.stages[:-1] if stage.stride <= 4]
    return fine[-1] if fine else spec.stages[0].name


def _ensemble(manifest: Manifest, groups: int, least: int) -> list[str]:
    """By the groups of all classes, and of the smallest."""
    if held_out := len(manifest.part(HELD_OUT)):
        return ["ensemble:", f"  folds: 1 # {held_out} pictures for calibration tell the model its errors"]
    if groups >= CALIBRATION_GROUPS:
        return ["ensemble:", f"  folds: 1 # {groups} groups: folds would take long (split.calibration_frac is better)"]
    folds = min(5, least)
    if folds < 2:
        return ["ensemble:", "  folds: 1 # a class with one group cannot be divided"]
    return ["ensemble:", f"  folds: {folds} # each picture is held out once, and tells the model its errors"]
