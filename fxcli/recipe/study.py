"""What a study lists: the recipe of each run with its overrides, and all trainings in the order of work.

Called by load, which reads the recipes, and by `fx train`. Training is not here.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fxcli.errors import RecipeError
from fxcli.recipe.messages import likely, place_of, written
from fxcli.recipe.schema import ClassifyRecipe, StudyRecipe
from fxcli.recipe.source import Key, Leaf, Tree, leaves, override

# What a study says itself, and where.
_OWN = {
    "seed": "seeds",
    "data.manifest": "data",
    "data.source": "data",
    "name": "the names of its runs",
    "task": "the recipe",
    "extends": "the recipe",
}

# Reads the recipe of a name, looked for in a folder, with overrides: (name, folder, place, overrides).
Read = Callable[[str, Path, str, Sequence[Tree]], ClassifyRecipe]


@dataclass(frozen=True)
class Entry:
    """One training of a study.

    Attributes:
        data: A name of the study's data.
        run: A name of its runs.
        seed: One of its seeds.
        recipe: With all three in it.
        parts: What its answers are asked of: see `_parts`.
    """

    data: str
    run: str
    seed: int
    recipe: ClassifyRecipe
    parts: tuple[str, ...]

    @property
    def name(self) -> str:
        """<data>/<run>-s<seed>: its folder below the study's, and its place in the results."""
        return f"{self.data}/{self.run}-s{self.seed}"


def entries(study: StudyRecipe, runs: Mapping[str, ClassifyRecipe]) -> list[Entry]:
    """All trainings in the order of work: seed by seed, so that one seed is everywhere first.

    Args:
        study: Resolved.
        runs: The recipe of each run.
    """
    found = []
    for seed in study.seeds:
        for data, manifest in study.data.items():
            for run, recipe in runs.items():
                pictures = recipe.data.model_copy(update={"manifest": manifest, "source": None})
                own = recipe.model_copy(update={"seed": seed, "data": pictures})
                found.append(Entry(data, run, seed, own, _parts(study, data, run, recipe.ensemble.folds)))
    return found


def _parts(study: StudyRecipe, data: str, run: str, folds: int) -> tuple[str, ...]:
    """The parts that a run is measured on.

    The test part is looked at only where a comparison or a published figure asks for it, and without folds, where
    there are no other answers; those to held-out pictures cost no look.
    """
    asked = study.runs[run].published is not None or any(
        comparison.part == "test" and (run, data) in comparison.sides for comparison in study.comparisons
    )
    if folds == 1:
        return ("test",)
    return ("test", "oof") if asked else ("oof",)


def joined(key: Key) -> Key:
    """A key of a study as `--set` splits it: what follows `set` is one name, the key that is overridden."""
    for at in (1, 3):
        if len(key) > at and key[at - 1] == "set" and (at == 1 or key[0] == "runs"):
            return (*key[:at], ".".join(key[at:]))
    return key


def resolved(
    study: StudyRecipe, origins: Mapping[Key, Leaf], shown: str, read: Read
) -> tuple[dict[str, ClassifyRecipe], list[str]]:
    """The recipe of each run, and every problem; those of a run's recipe begin with its name."""
    runs: dict[str, ClassifyRecipe] = {}
    problems = []
    for name, run in study.runs.items():
        overrides = [
            *_overrides(study.set, ("set",), origins, shown),
            *_overrides(run.set, ("runs", name, "set"), origins, shown),
        ]
        found = [line for over in overrides for line in _refused(over)]
        source = origins["runs", name, "recipe"].source
        folder = Path() if source == "--set" else Path(source).parent
        place = written(("runs", name, "recipe"), origins, shown)
        own = {"name": name, "seed": study.seeds[0]}
        own["data"] = {"manifest": next(iter(study.data.values())), "source": None}
        overrides += [override(value, (key,), place) for key, value in own.items()]
        try:
            runs[name] = read(run.recipe, folder, place, overrides)
        except RecipeError as error:
            found += error.problems
        else:
            if runs[name].ensemble.seeds > 1:
                found.append(f"{place}: it asks for several seeds; set ensemble.seeds: 1, for a study has seeds itself")
        problems += [f"run {name}: {line}" for line in found]
    return runs, [*_rules(study, runs, origins, shown), *problems]


def _overrides(values: Mapping[str, Any], at: Key, origins: Mapping[Key, Leaf], shown: str) -> Iterator[Tree]:
    for dotted, value in values.items():
        place, _ = place_of((*at, dotted), origins, shown)
        yield override(value, tuple(dotted.split(".")), place)


def _refused(over: Tree) -> Iterator[str]:
    for key, leaf in leaves(over):
        dotted = ".".join(key)
        if dotted in _OWN:
            yield f"{leaf.source}: {dotted} is nothing to override: in a study, {_OWN[dotted]} say it"


def _rules(
    study: StudyRecipe, runs: Mapping[str, ClassifyRecipe], origins: Mapping[Key, Leaf], shown: str
) -> Iterator[str]:
    """What no single field can say."""
    if len(set(study.seeds)) < len(study.seeds):
        yield f"{written(('seeds',), origins, shown)}: each seed once"
    for number, comparison in enumerate(study.comparisons):
        key = ("comparisons", f"{number}")
        known: dict[str, Collection[str]] = {"a": study.runs, "b": study.runs, "data": study.data}
        if comparison.data_b is not None:
            known["data_b"] = study.data
        for field, names in known.items():
            name = getattr(comparison, field)
            if name not in names:
                what = "data" if names is study.data else "run"
                choices = f"{', '.join(names)}{likely(name, names)}"
                yield f"{written((*key, field), origins, shown)}: this study has no {what} '{name}'; it has {choices}"
            elif names is study.runs and comparison.part == "oof" and name in runs and runs[name].ensemble.folds == 1:
                place = written((*key, "part"), origins, shown)
                yield f"{place}: run {name} has no out-of-fold predictions; set ensemble.folds for it"
        if comparison.on and comparison.part != "test":
            yield f"{written((*key, 'on'), origins, shown)}: only test pictures leak; leave out part: oof"
        if len(set(comparison.sides)) == 1:
            yield f"{written(key, origins, shown)}: it compares a run with itself"
