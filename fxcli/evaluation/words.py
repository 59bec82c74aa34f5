"""What `fx evaluate` in the terminal and `fx report` say of figures, in words and tables. Mappings in, text out.

The mappings are those of `report` and `figures`, as JSON has them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

# The figures that are told, in this order: of a model, of a class, and of two classes of which one is a finding.
OVERALL = ("nll", "brier", "accuracy", "balanced_accuracy", "macro_f1", "auroc")
PER_CLASS = ("precision", "recall", "f1", "auroc")
RATES = ("sensitivity", "specificity", "ppv", "npv", "auroc", "auprc")
# Of a detector, with what they are called, and what that means.
BOXES = {
    "ap50": "AP50",
    "ap50_95": "AP50–95",
    "sensitivity_at_0.5_fp": "sensitivity at 0.5",
    "sensitivity_at_1_fp": "sensitivity at 1",
    "sensitivity_at_2_fp": "sensitivity at 2",
    "auroc": "AUROC",
}
ABOUT_BOXES = "sensitivity at so many false positives a picture; AUROC: is there any box?"
METADATA = "AUROC of metadata"
ABSTENTIONS = ("tolerated error", "answers above", "answered here", "error here")


def told(value: Mapping[str, float | None] | None) -> str:
    """A figure with its interval."""
    if value is None or value["value"] is None:
        return "–"
    if value["low"] is None:
        return f"{value['value']:.3f}"
    high = "∞" if value["high"] is None else f"{value['high']:.3f}"
    return f"{value['value']:.3f} [{value['low']:.3f}, {high}]"


def percent(value: Mapping[str, float | None] | None) -> str:
    """A share with its interval, in percent."""
    if value is None or value["value"] is None:
        return "–"
    low, high = value["low"], value["high"]
    interval = "" if low is None or high is None else f" [{100 * low:.1f}, {100 * high:.1f}]"
    return f"{100 * value['value']:.1f} %{interval}"


Rows = tuple[list[str], list[list[str]]]


def per_class(found: Mapping[str, Any]) -> Rows:
    """Columns and rows of the figures of each class."""
    rows = [
        [name, *(told(each[key]) for key in PER_CLASS), str(each["support"]), str(each["n_groups"])]
        for name, each in found.items()
    ]
    return ["class", *PER_CLASS, "n", "groups"], rows


def confusion(names: Sequence[str], counts: Sequence[Sequence[int]]) -> Rows:
    """Columns and rows of how often each class was called which."""
    rows = [[f"{at} {name}", *map(str, row)] for at, (name, row) in enumerate(zip(names, counts, strict=True), 1)]
    return ["true class", *(str(at) for at in range(1, len(names) + 1))], rows


def by_value(column: str, found: Mapping[str, Any]) -> Rows:
    """Columns and rows of the figures at each value of a column; a figure that no value has is left out."""
    keys: Mapping[str, Any] = next(iter(found.values()), {})
    names = [key for key in keys if any(isinstance(each[key], dict) for each in found.values())]
    rows = [
        [
            value or "–",
            str(each["n"]),
            f"{each['n_groups']}{' (few)' if each['few'] else ''}",
            *(told(each[name]) for name in names),
        ]
        for value, each in found.items()
    ]
    return [column, "n", "groups", *names], rows


def boxes_by_value(column: str, found: Mapping[str, Any]) -> Rows:
    """The same of a detector, with what metadata alone tell where that was measured."""
    more = [METADATA] if any("metadata_auroc" in each for each in found.values()) else []
    rows = [
        [
            value or "–",
            *(str(each[key]) for key in ("n", "n_positive", "n_boxes")),
            *(told(each[key]) for key in BOXES),
            *([told(each.get("metadata_auroc"))] if more else []),
        ]
        for value, each in found.items()
    ]
    return [column, "n", "with boxes", "boxes", *BOXES.values(), *more], rows


def calibration(figures: Mapping[str, Any]) -> str:
    """The calibration error, beside what chance alone would show."""
    chance = figures["ece_if_calibrated"]
    return (
        f"calibration error {told(figures['ece'])} in {chance['bins']} bins of equal size; one that is perfectly "
        f"calibrated would show {chance['mean']:.3f} at this n, and up to {chance['p95']:.3f} in 95 of 100 cases"
    )


def sets(found: Mapping[str, Any]) -> str:
    """How prediction sets turned out."""
    verdict = "inside" if found["passes"] else found["position"]
    return (
        f"prediction sets ({found['method']}): hold the true class in {100 * found['coverage']:.1f} %, {verdict} the "
        f"band of {100 * found['band_low']:.1f}–{100 * found['band_high']:.1f} % around {100 * found['target']:.0f} %, "
        f"with {told(found['mean_size'])} classes on average; {percent(found['singletons'])} hold one class"
    )


def unlike(found: Mapping[str, Any]) -> str:
    """How many pictures are unlike the training pictures."""
    return f"unlike the training pictures: {percent(found['share'])}"


def finding(found: Mapping[str, Any], split: str) -> str:
    """From which probability on something counts as a finding, and what to beware of in its figures on this part."""
    told = [f"{found['positive']} at p ≥ {found['threshold']:.3f} (from {found['threshold_from']})"]
    if found["threshold_from"] == split:
        told.append("these pictures chose it: sensitivity and specificity flatter")
    share = found["prevalence"]["value"]
    return "; ".join([*told, f"ppv and npv hold where {100 * share:.0f} % bear a finding, as here"])


def metadata(found: Mapping[str, Any]) -> str:
    """What columns of the manifest tell without any picture."""
    return (
        f"without any picture, {', '.join(found['columns'])} alone reach an AUROC of {told(found['auroc'])} "
        f"(fitted on {found['n_learnt']} training pictures of this manifest)"
    )


def abstentions(rows: list[dict[str, Any]]) -> Iterator[list[str]]:
    """Rows with ABSTENTIONS as columns: what each tolerated error leads to."""
    for before, row in pairwise([{"threshold": None}, *rows]):
        # Where a stricter target has the same threshold, it says all.
        if row["threshold"] != before["threshold"]:
            here = [percent(row[key]) for key in ("answered", "error")]
            yield [f"{100 * row['target']:.0f} %", f"{row['threshold']:.3f}", *here]
