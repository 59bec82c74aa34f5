"""Whether a faster way of computing gives the answers of the exact one: figures, and the rule that allows it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np

from fxcli.evaluation.metrics import softmax

# Below this lead of the first class over the second, rounding may decide, and a flip says nothing.
CLEAR_MARGIN = 0.1


@dataclass(frozen=True)
class Tolerance:
    """What a faster way may cost.

    Attributes:
        agree_clear: Least fraction of equal classes among pictures with a clear answer.
        mean_abs_dp: Most mean absolute difference of a probability.
        accuracy_drop: Most loss of accuracy, as a fraction; None where that is not looked at.
    """

    agree_clear: float
    mean_abs_dp: float
    accuracy_drop: float | None = None


EXPORTED = Tolerance(agree_clear=1.0, mean_abs_dp=1e-4)
BF16 = Tolerance(agree_clear=0.995, mean_abs_dp=0.01)
INT8 = Tolerance(agree_clear=0.97, mean_abs_dp=0.02, accuracy_drop=0.02)


@dataclass(frozen=True)
class Agreement:
    """How far two ways of computing agree.

    Attributes:
        n: Pictures.
        agree: Fraction of equal classes.
        n_clear: Pictures whose exact answer leads by more than 0.1.
        agree_clear: Fraction of equal classes among those; among all where there are none.
        mean_abs_dp: Mean absolute difference of a probability, over pictures and classes.
        accuracy_drop: Accuracy of the exact way less that of the other; None without labels.
    """

    n: int
    agree: float
    n_clear: int
    agree_clear: float
    mean_abs_dp: float
    accuracy_drop: float | None = None

    def within(self, allowed: Tolerance) -> bool:
        """Whether the faster way may take the exact one's place."""
        drop = 0.0 if self.accuracy_drop is None or allowed.accuracy_drop is None else self.accuracy_drop
        return (
            self.n > 0
            and self.agree_clear >= allowed.agree_clear
            and self.mean_abs_dp <= allowed.mean_abs_dp
            and drop <= (allowed.accuracy_drop or 0.0)
        )

    def told(self) -> str:
        """In words, for people."""
        fallen = self.accuracy_drop
        # Rounded first: what vanishes has no sign.
        drop = "" if fallen is None else f", accuracy {0.0 - round(100 * fallen, 1):+.1f} points"
        clear = f"{100 * self.agree_clear:.1f} % of the {self.n_clear} with" if self.n_clear else "none of which has"
        return (
            f"same class on {100 * self.agree:.1f} % of {self.n} pictures, {clear} a clear answer, "
            f"mean |Δp| {self.mean_abs_dp:.4f}{drop}"
        )

    @classmethod
    def from_mapping(cls, values: Any) -> Agreement | None:
        """The object again; None where a header holds something else."""
        try:
            found = {field.name: values[field.name] for field in fields(cls)}
        except (KeyError, TypeError, IndexError):
            return None
        is_known = (
            type(value) in (int, float) or (value is None and name == "accuracy_drop") for name, value in found.items()
        )
        return cls(**found) if all(is_known) else None

    def to_mapping(self, allowed: Tolerance) -> dict[str, Any]:
        """Plain values for a header, with the verdict as `passes`."""
        return {**asdict(self), "passes": self.within(allowed)}


def pooled(found: Sequence[Agreement]) -> Agreement:
    """Of several comparisons, each of its own pictures; accuracies are not pooled."""
    n, n_clear = sum(each.n for each in found), sum(each.n_clear for each in found)
    # Where no answer is clear, the figure is that of all.
    clear = [(each.agree_clear, each.n_clear if n_clear else each.n) for each in found]
    return Agreement(
        n=n,
        agree=sum(each.agree * each.n for each in found) / n,
        n_clear=n_clear,
        agree_clear=sum(value * weight for value, weight in clear) / (n_clear or n),
        mean_abs_dp=sum(each.mean_abs_dp * each.n for each in found) / n,
    )


def compare(exact: np.ndarray, other: np.ndarray, targets: np.ndarray | None = None) -> Agreement:
    """Compares logits.

    Args:
        exact: [N, K].
        other: [N, K], of the same pictures.
        targets: [N] class indices, if the accuracies are to be compared.
    """
    p, q = softmax(exact), softmax(other)
    first, second = np.sort(p, axis=1)[:, :-3:-1].T
    clear = first - second > CLEAR_MARGIN
    same = p.argmax(1) == q.argmax(1)
    drop = None
    if targets is not None:
        drop = float((p.argmax(1) == targets).mean() - (q.argmax(1) == targets).mean())
    return Agreement(
        n=len(same),
        agree=float(same.mean()),
        n_clear=int(clear.sum()),
        agree_clear=float(same[clear].mean() if clear.any() else same.mean()),
        mean_abs_dp=float(np.abs(p - q).mean()),
        accuracy_drop=drop,
    )
