"""What `fx evaluate` shows: tables for people, from the results that it writes."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from fxcli.console import console

OVERALL = ("nll", "brier", "accuracy", "balanced_accuracy", "macro_f1", "auroc")
PER_CLASS = ("precision", "recall", "f1", "auroc")
RATES = ("sensitivity", "specificity", "ppv", "npv", "auroc", "auprc")


def show(results: list[dict[str, Any]], comparisons: list[dict[str, Any]], split: str) -> None:
    """Shows results, one after the other, and what models gain over the first."""
    unit = results[0]["unit"]
    console.table(
        ["model", "n", "groups", *OVERALL],
        [
            [
                _shown(result),
                result["figures"]["n"],
                result["figures"]["n_groups"],
                *(told(result["figures"][name]) for name in OVERALL),
            ]
            for result in results
        ],
        title=f"{split} part{'' if unit == 'picture' else f', by {unit}'} [95 % interval over groups]",
    )
    for result in results:
        _of_one(result)
    if comparisons:
        for each in comparisons:
            console.data(each["verdict"])
    for text in dict.fromkeys(result["notice"] for result in results):
        console.note(text)


def _of_one(result: dict[str, Any]) -> None:
    name, figures = _shown(result), result["figures"]
    per_class = figures["per_class"]
    console.table(
        ["class", *PER_CLASS, "n", "groups"],
        [
            [each, *(told(values[column]) for column in PER_CLASS), values["support"], values["n_groups"]]
            for each, values in per_class.items()
        ],
        title=f"{name}: per class",
    )
    console.table(
        ["true class", *(str(number) for number in range(1, len(per_class) + 1))],
        [
            [f"{number} {each}", *row]
            for number, (each, row) in enumerate(zip(per_class, figures["confusion"], strict=True), 1)
        ],
        title="how often it was called which",
    )
    chance = figures["ece_if_calibrated"]
    console.data(
        f"calibration error {told(figures['ece'])} in {chance['bins']} bins of equal size; one that is perfectly "
        f"calibrated would show {chance['mean']:.3f} at this n, and up to {chance['p95']:.3f} in 95 of 100 cases"
    )
    for column, values in result["by"].items():
        _by(column, values)
    if "unlike_training" in result:
        console.data(f"unlike the training pictures: {100 * result['unlike_training']['share']:.1f} %")
    if "binary" in result:
        found = result["binary"]
        console.data(f"{found['positive']} at p ≥ {found['threshold']:.3f} (from {found['threshold_from']}): ")
        console.table([*RATES], [[told(found[rate]) for rate in RATES]])
    if "sets" in result:
        _sets(result)
    if contradicted := result.get("contradicted"):
        console.table(
            list(contradicted[0]),
            [list(row.values()) for row in contradicted[:10]],
            title=f"labels that its out-of-fold answers contradict most surely: {min(10, len(contradicted))} "
            f"of {len(contradicted)}",
        )


def _by(column: str, values: dict[str, Any]) -> None:
    first = next(iter(values.values()))
    names = [name for name in first if isinstance(first[name], dict)]
    console.table(
        [column, "n", "groups", *names],
        [
            [
                value or "–",
                row["n"],
                f"{row['n_groups']}{' (few)' if row['few'] else ''}",
                *(told(row[n]) for n in names),
            ]
            for value, row in values.items()
        ],
    )


def _sets(result: dict[str, Any]) -> None:
    sets = result["sets"]
    verdict = "inside" if sets["passes"] else sets["position"]
    console.data(
        f"prediction sets ({sets['method']}): hold the true class in {100 * sets['coverage']:.1f} %, {verdict} the "
        f"band of {100 * sets['band_low']:.1f}–{100 * sets['band_high']:.1f} % around {100 * sets['target']:.0f} %, "
        f"with {sets['mean_size']:.2f} classes on average; {100 * sets['singletons']:.0f} % hold one class"
    )
    for line in sets["notices"]:
        console.data(line)
    rows = [
        [f"{100 * row['target']:.0f} %", f"{row['threshold']:.3f}", f"{100 * row['answered']:.0f} %", _percent(row)]
        for before, row in pairwise([{"threshold": None}, *result["abstentions"]])
        # Where a stricter target has the same threshold, it says all.
        if row["threshold"] != before["threshold"]
    ]
    if rows:
        console.table(["tolerated error", "answers above", "answered here", "error here"], rows)


def _percent(row: dict[str, Any]) -> str:
    return "–" if row["error"] is None else f"{100 * row['error']:.1f} %"


def _shown(result: dict[str, Any]) -> str:
    return f"{result['model']} (DEMO)" if result["demo"] else str(result["model"])


def told(value: dict[str, float | None] | None) -> str:
    """A figure with its interval."""
    if value is None or value["value"] is None:
        return "–"
    if value["low"] is None or value["high"] is None:
        return f"{value['value']:.3f}"
    return f"{value['value']:.3f} [{value['low']:.3f}, {value['high']:.3f}]"
