"""What `fx evaluate` shows: tables for people, from the results that it writes."""

from __future__ import annotations

from typing import Any

from fxcli.console import console
from fxcli.evaluation import words
from fxcli.evaluation.words import OVERALL, RATES, told


def show(results: list[dict[str, Any]], names: list[str], comparisons: list[dict[str, Any]], split: str) -> None:
    """Shows results, one after the other under these names, and what models gain over the first."""
    unit = results[0]["unit"]
    shown = [f"{name} (DEMO)" if result["demo"] else name for name, result in zip(names, results, strict=True)]
    console.table(
        ["model", "n", "groups", *OVERALL],
        [
            [
                name,
                result["figures"]["n"],
                result["figures"]["n_groups"],
                *(told(result["figures"][name]) for name in OVERALL),
            ]
            for name, result in zip(shown, results, strict=True)
        ],
        title=f"{split} part{'' if unit == 'picture' else f', by {unit}'} [95 % interval over groups]",
    )
    for name, result in zip(shown, results, strict=True):
        _of_one(name, result)
    if comparisons:
        for each in comparisons:
            console.data(each["verdict"])
    for text in dict.fromkeys(result["notice"] for result in results):
        console.note(text)


def _of_one(name: str, result: dict[str, Any]) -> None:
    figures = result["figures"]
    console.table(*words.per_class(figures["per_class"]), title=f"{name}: per class")
    confusion = words.confusion(list(figures["per_class"]), figures["confusion"])
    console.table(*confusion, title="how often it was called which")
    console.data(words.calibration(figures))
    for column, values in result["by"].items():
        console.table(*words.by_value(column, values))
    if "unlike_training" in result:
        console.data(words.unlike(result["unlike_training"]))
    if "binary" in result:
        found = result["binary"]
        console.data(f"{words.finding(found, result['split'])}: ")
        console.table([*RATES], [[told(found[rate]) for rate in RATES]])
    if "metadata" in result:
        console.data(words.metadata(result["metadata"]))
    if "sets" in result:
        _sets(result)
    if contradicted := result.get("contradicted"):
        console.table(
            list(contradicted[0]),
            [list(row.values()) for row in contradicted[:10]],
            title=f"labels that its out-of-fold answers contradict most surely: {min(10, len(contradicted))} "
            f"of {len(contradicted)}",
        )


def _sets(result: dict[str, Any]) -> None:
    console.data(words.sets(result["sets"]))
    for line in result["sets"]["notices"]:
        console.data(line)
    if rows := list(words.abstentions(result["abstentions"])):
        console.table(words.ABSTENTIONS, rows)
