"""The table of a study: what a recipe reaches over its seeds, on pictures that leaked and on the others.

Called by training.results; files are not its matter.
The intervals are those of other pictures: the trainings of a recipe, one a seed, are averaged for each picture before
groups of pictures are drawn. How far trainings differ shows in `accuracy_seeds`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from fxcli.evaluation import bootstrap, metrics, weighted
from fxcli.evaluation.comparison import Comparison, compare_models
from fxcli.evaluation.figures import mapping
from fxcli.evaluation.intervals import Interval, alike_n, balanced_n, codes_of
from fxcli.evaluation.predictions import Labelled

# Which pictures, and what they say in the column `leaked`.
LEAKED = {"leaked": "yes", "not_leaked": "no"}
_RECALL = "recall:"


@dataclass(frozen=True)
class Answers:
    """What the trainings of one recipe said of the same pictures.

    Attributes:
        said: With logits [S, N, K] of S seeds.
        leaked: [N] "yes" (the picture has a twin in training), "no" or "" (unknown).
        classes: K names.
    """

    said: Labelled
    leaked: np.ndarray
    classes: tuple[str, ...]


def figures(answers: Answers) -> dict[str, Any]:
    """Means over seeds.

    Returns:
        n, n_groups, seeds (how many); accuracy {value, low, high}, with the bootstrap's 95 % interval over groups;
        accuracy_seeds [S]; nll and macro_f1, likewise, and recall of each class, None of one without pictures; leaked
        and not_leaked {n, accuracy {value, low, high}}, None where the pictures do not say.
    """
    said = answers.said
    groups = np.asarray(said.groups)
    scores = [metrics.scores(logits, said.targets) for logits in said.logits]
    right = np.stack([each["accuracy"] for each in scores])
    mean = right.mean(axis=0)
    recall = {}
    for index, label in enumerate(answers.classes):
        own = said.targets == index
        recall[label] = mapping(bootstrap.mean(mean[own], groups[own], is_share=True))
    apart = {}
    for name, value in LEAKED.items():
        inside = answers.leaked == value
        accuracy = bootstrap.mean(mean[inside], groups[inside], is_share=True)
        apart[name] = {"n": int(inside.sum()), "accuracy": mapping(accuracy)} if accuracy else None
    return {
        "n": len(said.targets),
        "n_groups": len(np.unique(groups)),
        "seeds": len(said.logits),
        "accuracy": mapping(bootstrap.mean(mean, groups, is_share=True)),
        "accuracy_seeds": [float(value) for value in right.mean(axis=1)],
        "nll": mapping(bootstrap.mean(np.mean([each["nll"] for each in scores], axis=0), groups)),
        "macro_f1": mapping(_macro_f1(said)),
        "recall": recall,
        **apart,
    }


def _macro_f1(said: Labelled) -> Interval | None:
    """Mean over seeds: of each seed its own, from the same groups drawn."""
    codes, n_groups = codes_of(said.groups, len(said.targets))
    n_classes = said.logits.shape[2]
    counts = [
        weighted.confusions(said.targets, metrics.softmax(logits).argmax(axis=1), codes, n_groups, n_classes)
        for logits in said.logits
    ]

    def mean(weights: np.ndarray) -> np.ndarray:
        """[G, B] → [B]."""
        found: np.ndarray = np.mean([weighted.of_confusion(weights.T @ each)["macro_f1"] for each in counts], axis=0)
        return found

    drawn = bootstrap.replicates(lambda weights: {"macro_f1": mean(weights)}, n_groups)["macro_f1"]
    sizes = [alike_n(codes[said.targets == index]) for index in range(n_classes)]
    return bootstrap.percentile(float(mean(np.ones((n_groups, 1)))[0]), drawn, n_groups, n=balanced_n(sizes))


def compare(
    a: Answers, b: Answers, names: Sequence[str], metric: str, *, on: str | None = None, primary: bool
) -> Comparison:
    """Whether b is better than a.

    Args:
        a: Of one recipe.
        b: Of another, or of another training part; of the same pictures, not necessarily with as many seeds.
        names: Of both.
        metric: See `compare_models`; or recall:<class>, the accuracy on pictures of that class.
        on: A key of LEAKED: these pictures alone. None: all.
        primary: Whether this was named beforehand.

    Raises:
        ValueError: They are of different pictures, or none is left of them.
    """
    if not _are_alike(a, b):
        raise ValueError(f"{names[0]} and {names[1]} did not answer to the same pictures")
    said, inside = a.said, np.full(len(a.said.paths), True)
    if on is not None:
        inside &= a.leaked == LEAKED[on]
    if metric.startswith(_RECALL):
        name = metric.removeprefix(_RECALL)
        inside &= np.array([a.classes[target] == name for target in said.targets])
    if not inside.any():
        raise ValueError(f"no picture to compare {names[0]} and {names[1]} on: {metric}{f', {on}' if on else ''}")
    found = compare_models(
        list(said.logits[:, inside]),
        list(b.said.logits[:, inside]),
        said.targets[inside],
        np.asarray(said.groups)[inside],
        metric="accuracy" if metric.startswith(_RECALL) else metric,
        names=(names[0], names[1]),
        primary=primary,
    )
    return replace(found, metric=metric)


def _are_alike(a: Answers, b: Answers) -> bool:
    """Whether they are of the same pictures, of which all the same is known."""
    return (
        (a.said.paths, tuple(a.said.groups), a.classes) == (b.said.paths, tuple(b.said.groups), b.classes)
        and np.array_equal(a.said.targets, b.said.targets)
        and np.array_equal(a.leaked, b.leaked)
    )
