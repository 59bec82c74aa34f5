"""Several trainings of one recipe: which they are (folds, seeds), and the one model that they make together.

With folds, each part holds another share of the training pictures out, whole groups at a time. What it says of them is
out-of-fold (OOF): it has never seen them, and nothing was chosen by them. They stand in the split `calibration` of the
part's manifest. A part that monitors a validation part gets one drawn from its own training pictures.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np

from fxcli.data import split
from fxcli.data.manifest import HELD_OUT, Manifest, groups_of
from fxcli.errors import RunError
from fxcli.evaluation import agreement, metrics, uncertainty
from fxcli.evaluation.agreement import Agreement
from fxcli.evaluation.predictions import Labelled, labelled_csv, read_labelled
from fxcli.inference import measured
from fxcli.inference.opened import open_model
from fxcli.model import classifier as models
from fxcli.model.classifier import TrainedModel
from fxcli.recipe.schema import ClassifyRecipe, Ensemble
from fxcli.run.directory import Run
from fxcli.run.files import write_text
from fxcli.run.randomness import derive
from fxcli.zoo.plugins import Zoo

# Where a manifest has no validation part to take the size from.
_VAL_FRAC = 0.15


@dataclass(frozen=True)
class Part:
    """One training of several.

    Attributes:
        run: Where it goes, within the run of all.
        of_seed: The run that holds the parts with its seed: that of all, unless there are several seeds.
        recipe: With its seed, and without the wish for others.
        manifest: With its held-out pictures, if there are folds.
        fold: Its number, or None.
    """

    run: Run
    of_seed: Run
    recipe: ClassifyRecipe
    manifest: Manifest
    fold: int | None

    @property
    def title(self) -> str:
        """In words, for people."""
        fold = "" if self.fold is None else f"fold {self.fold}, "
        return f"{fold}seed {self.recipe.seed}: {len(self.manifest.part('train'))} training pictures"


def parts(recipe: ClassifyRecipe, manifest: Manifest, run: Run) -> list[Part]:
    """The trainings that a recipe asks for, seed by seed; none if it asks for a single one.

    Raises:
        DataError: There are fewer groups than folds.
    """
    wanted = recipe.ensemble
    if wanted.folds == wanted.seeds == 1:
        return []
    folds = _divided(recipe, manifest) if wanted.folds > 1 else [manifest]
    found = []
    for number, (fold, divided) in product(range(wanted.seeds), enumerate(folds)):
        seed, held_out = number if wanted.seeds > 1 else None, fold if wanted.folds > 1 else None
        alone = recipe.model_copy(update={"seed": recipe.seed + number, "ensemble": Ensemble()})
        found.append(Part(run.within(seed, held_out), run.within(seed), alone, divided, held_out))
    return found


def _divided(recipe: ClassifyRecipe, manifest: Manifest) -> list[Manifest]:
    """A manifest for each fold; the test part stays as it is, and is looked at by none."""
    settings, rows = recipe.ensemble, manifest.rows
    places = [index for index, row in enumerate(rows) if row.split != "test"]
    labels, groups = [rows[i].label for i in places], groups_of([rows[i] for i in places])
    number = split.folds(labels, groups, settings.folds, derive(settings.fold_seed, "folds"))
    counts = Counter(row.split for row in rows)
    val_frac = counts["val"] / len(places) or _VAL_FRAC
    monitors = any(phase.train.monitor != "none" for phase in recipe.phases.values())
    found = []
    for fold in range(settings.folds):
        splits = [row.split for row in rows]
        rest = [place for place, its in enumerate(number) if its != fold]
        val = np.zeros(len(rest), dtype=bool)
        if monitors:
            seed = derive(settings.fold_seed, "val", fold)
            val = split.drawn([labels[i] for i in rest], [groups[i] for i in rest], val_frac, seed)
        for place, its in enumerate(number):
            splits[places[place]] = HELD_OUT if its == fold else "train"
        for place, is_val in zip(rest, val, strict=True):
            splits[places[place]] = "val" if is_val else "train"
        found.append(manifest.divided(splits))
    return found


def combine(run: Run, manifest: Manifest, made: Sequence[Part], zoo: Zoo, header: Mapping[str, Any]) -> dict[str, Any]:
    """Writes the model of all parts, and with folds what they say of the pictures that they held out.

    Args:
        run: Of all.
        manifest: Likewise.
        made: Finished.
        zoo: For their backbones.
        header: Entries of the model file in place of those of its parts.

    Returns:
        The figures of the mean over seeds: with folds on the held-out pictures, else on the validation part, or {}.

    Raises:
        RunError: The parts do not fit together.
    """
    models_of = [models.load(part.run.model_file, zoo) for part in made]
    first = models_of[0]
    if any(model.classes != first.classes or model.preprocessing != first.preprocessing for model in models_of):
        raise RunError("the parts of this run do not fit together", where=run.path, hint="start a new run")
    info = {key: value for key, value in first.info.items() if key not in ("epoch", "agreement", "seed")}
    info["members"] = [
        {"seed": part.recipe.seed, "fold": part.fold, "epoch": model.info.get("epoch")}
        for part, model in zip(made, models_of, strict=True)
    ]
    info |= {"manifest_sha256": manifest.digest, "agreement": _agreement(models_of), **header}
    figures: dict[str, Any] = {}
    settings = made[0].recipe.evaluate
    if made[0].fold is not None:
        said = oof(run, manifest, made, info)
        figures = metrics.classification(said.mean_logits, said.targets, first.classes)
        held_out_by = {row.path: part.fold for part in made for row in part.manifest.part(HELD_OUT)}
        folds = np.array([held_out_by[path] for path in said.paths])
        info["uncertainty"] = uncertainty.fit(said, settings, first.classes, source="oof", folds=folds).to_mapping()
    elif manifest.part(HELD_OUT):
        said = Labelled.of_seeds([_held_out(part.run) for part in made])
        info["uncertainty"] = uncertainty.fit(said, settings, first.classes, source=HELD_OUT).to_mapping()
    members = tuple(model.network for model in models_of)
    TrainedModel(members, first.spec, first.classes, first.preprocessing, info).save(run.model_file)
    if made[0].fold is None and (rows := manifest.part("val")):
        # By the same code as `fx evaluate`.
        said, _ = measured.measure(open_model(str(run.path), device=made[0].recipe.hardware.device), manifest, rows)
        figures = metrics.classification(said.mean_logits, said.targets, first.classes)
    return figures


def _agreement(models_of: Sequence[TrainedModel]) -> dict[str, Any]:
    """How far the parts' answers in bf16 agree, each on pictures that it had not seen; their mean is rounded less."""
    told: dict[str, Any] = {}
    for engine in models_of[0].info.get("agreement") or {}:
        known = [(model.info.get("agreement") or {}).get(engine, {}).get("bf16") for model in models_of]
        found = [each for each in map(Agreement.from_mapping, known) if each is not None]
        if len(found) == len(models_of):
            told[engine] = {"bf16": agreement.pooled(found).to_mapping(agreement.BF16)}
    return told


def oof(run: Run, manifest: Manifest, made: Sequence[Part], info: Mapping[str, Any]) -> Labelled:
    """What the parts say of the pictures that each held out, in the manifest's order; written as predictions, too.

    Raises:
        RunError: The predictions of a part are damaged or do not cover the training pictures.
    """
    order = {row.path: place for place, row in enumerate(manifest.rows) if row.split != "test"}
    by_seed: dict[int, list[Labelled]] = {}
    for part in made:
        by_seed.setdefault(part.recipe.seed, []).append(_held_out(part.run))
    seeds = []
    for found in by_seed.values():
        joined = Labelled.joined(found)
        if sorted(joined.paths) != sorted(order):
            raise RunError("the held-out pictures are not the training pictures", where=run.path)
        seeds.append(joined.chosen(np.argsort([order[path] for path in joined.paths])))
    said = Labelled.of_seeds(seeds)
    classes = manifest.classes
    runs = dict.fromkeys(part.of_seed for part in made)
    for whole, each in [*zip(runs, seeds, strict=True), (run, said)]:
        whole.oof_file.parent.mkdir(exist_ok=True)
        write_text(whole.oof_file, labelled_csv(each.rows(classes), classes, info))
    return said


def _held_out(run: Run) -> Labelled:
    try:
        return read_labelled(run.held_out_file.read_bytes().decode("utf-8"))[0]
    except (OSError, ValueError) as error:
        raise RunError(f"damaged: {error}", where=run.held_out_file) from error
