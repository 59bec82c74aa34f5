"""What `fx train` does with a study: works it off, or with --dry-run only looks, and shows the table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from fxcli.console import console
from fxcli.run.directory import RUNS

if TYPE_CHECKING:
    from fxcli.recipe.load import Loaded
    from fxcli.recipe.schema import StudyRecipe

NOTHING = "no results yet"
COLUMNS = ("data", "run", "published", "accuracy", "not leaked", "leaked", "macro-F1", "NLL", "seeds")


def study(loaded: Loaded, out: Path | None, *, dry_run: bool) -> None:
    """Works off what is not done yet, and shows what is."""
    from fxcli.recipe.study import entries
    from fxcli.training.results import Results, report, states_of

    recipe = cast("StudyRecipe", loaded.recipe)
    folder = out or RUNS / recipe.name
    results = Results(Path(recipe.results) if recipe.results else folder / "results")
    listed = entries(recipe, loaded.runs)
    if not dry_run:
        from fxcli.training import study as training

        training.work(recipe, listed, folder, results)
    states = states_of(listed, folder, results)
    found = report(recipe, listed, results)
    if console.json:
        console.record({"study": recipe.name, "entries": states, **found})
        return
    if dry_run:
        _show_states(states)
    for part, title in (("test", "test part"), ("oof", "out-of-fold predictions of the training pictures")):
        rows = cells(found["rows"], part)
        if rows:
            console.table(COLUMNS, rows, title=f"{recipe.name}: {title}; percent but for NLL [95 % intervals]")
            console.table(*recalls(found["rows"], part), title="recall of each class, percent [95 % intervals]")
    if not found["rows"]:
        console.note(NOTHING)
    for line in [*verdicts(found["comparisons"]), *found["notes"]]:
        console.data(line)


def cells(rows: Sequence[Mapping[str, Any]], part: str) -> list[list[str]]:
    """The rows of a table, with COLUMNS; of a report, see `training.results.report`."""
    found = []
    for row in rows:
        if row["part"] != part:
            continue
        apart = [row[name] and row[name]["accuracy"] for name in ("not_leaked", "leaked")]
        found.append(
            [
                row["data"],
                row["run"],
                "" if row["published"] is None else f"{row['published']:.1f}",
                *(_percent(interval) for interval in (row["accuracy"], *apart, row["macro_f1"])),
                _told(row["nll"], "{:.2f}"),
                str(row["seeds"]),
            ]
        )
    return found


def recalls(rows: Sequence[Mapping[str, Any]], part: str) -> tuple[list[str], list[list[str]]]:
    """Columns and rows of a table of recalls, likewise."""
    own = [row for row in rows if row["part"] == part]
    classes = list(dict.fromkeys(name for row in own for name in row["recall"]))
    shown = [[row["recall"].get(name) for name in classes] for row in own]
    cells = [[_percent(interval, "{:.0f}") for interval in intervals] for intervals in shown]
    return ["data", "run", *classes], [[row["data"], row["run"], *line] for row, line in zip(own, cells, strict=True)]


def _percent(interval: Mapping[str, float | None] | None, form: str = "{:.1f}") -> str:
    return _told(interval and {end: None if value is None else 100 * value for end, value in interval.items()}, form)


def _told(interval: Mapping[str, float | None] | None, form: str) -> str:
    """A figure with its interval, as far as there is one."""
    if not interval or interval["value"] is None:
        return ""
    value, *ends = (None if interval[end] is None else form.format(interval[end]) for end in ("value", "low", "high"))
    return f"{value}" if None in ends else f"{value} [{', '.join(map(str, ends))}]"


def verdicts(comparisons: Sequence[Mapping[str, Any]]) -> list[str]:
    """One line for each comparison that both sides have results for."""
    return [
        f"{line['pictures']}: {line['names'][1]} against {line['names'][0]}: {line['verdict']}"
        for line in comparisons
        if "verdict" in line
    ]


def _show_states(states: Sequence[Mapping[str, Any]]) -> None:
    console.table(
        ["data", "run", "seed", "state", "minutes"],
        [[line["data"], line["run"], line["seed"], line["state"], _minutes(line["minutes"])] for line in states],
        title="trainings, in the order of work; minutes of what is not done are the mean of the same run so far",
    )
    left = [line["minutes"] for line in states if line["state"] != "done"]
    known = [minutes for minutes in left if minutes is not None]
    time = f"; about {sum(known):.0f} minutes for {len(known)} of the others" if known else ""
    console.note(f"{len(states) - len(left)} of {len(states)} trainings done{time}")


def _minutes(minutes: float | None) -> str:
    return "" if minutes is None else f"{minutes:.1f}"
