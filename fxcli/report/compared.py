"""Several runs beside each other: how their recipes differ, their curves, and what each gains over the first."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from fxcli.console import console
from fxcli.data.manifest import alike
from fxcli.evaluation import words
from fxcli.evaluation.comparison import gains
from fxcli.evaluation.predictions import Labelled, read_labelled
from fxcli.evaluation.words import told
from fxcli.recipe.source import flatten
from fxcli.report import told as told_of
from fxcli.report.blocks import Block, Bullets, Missing, Section, Table, Text
from fxcli.report.kept import Kept
from fxcli.report.measured import forest, shares_of

_MOST_DIFFERENCES = 60
_PARTS = ("test", "oof", "val")


def compared(runs: Mapping[str, Kept]) -> Section:
    """What runs, by how they are called, have and have not in common."""
    parts = [_recipes(runs), _curves(runs)]
    for name in _PARTS:
        shown = {label: run for label, run in runs.items() if name in run.evaluations}
        if len(shown) > 1:
            parts.append(_figures(shown, name))
    blocks: list[Block] = []
    if len(parts) == 2:
        blocks.append(Missing("No two of these runs were measured on the same part.", "fx evaluate RUN RUN"))
    return Section("Comparison", blocks, parts)


def _recipes(runs: Mapping[str, Kept]) -> Section:
    flat = [_settings(run, runs) for run in runs.values()]
    keys = dict.fromkeys(key for values in flat for key in values)
    rows = [[key, *(values.get(key, "–") for values in flat)] for key in keys]
    differing = [row for row in rows if len(set(row[1:])) > 1]
    if not differing:
        return Section("How the recipes differ", [Text("They are the same.")])
    blocks: list[Block] = [Table(["key", *runs], differing[:_MOST_DIFFERENCES])]
    if len(differing) > _MOST_DIFFERENCES:
        blocks.append(Text(f"The first {_MOST_DIFFERENCES} of {len(differing)}; fx recipe diff shows all."))
    return Section("How the recipes differ", blocks)


def _settings(run: Kept, runs: Mapping[str, Kept]) -> dict[str, str]:
    """Dotted key → value; a phase that another run has not is told of as a whole."""
    names = [set(each.section("phases") or ()) for each in runs.values()]
    shared, found = set.intersection(*names), dict[str, str]()
    for key, value in flatten(run.recipe):
        if key[0] == "phases" and len(key) > 1 and key[1] not in shared:
            found[f"phases.{key[1]}"] = "a phase of its own"
        else:
            found[".".join(map(str, key))] = "null" if value is None else str(value)
    return found


def _curves(runs: Mapping[str, Kept]) -> Section:
    trainings: dict[str, Kept] = {}
    for label, run in runs.items():
        trainings |= (
            {label: run}
            if run.epochs
            else {f"{label}, {name}": part for name, part in run.parts.items() if part.epochs}
        )
    if not trainings:
        return Section("Learning curves", [Missing("No epoch is finished yet.")])
    monitor = told_of.monitor_of(next(iter(trainings.values())))
    return Section("Learning curves", list(told_of.curves_of(trainings, monitor)))


def _figures(runs: Mapping[str, Kept], name: str) -> Section:
    are_detectors = all(run.task == "detect" for run in runs.values())
    titles = words.BOXES if are_detectors else {key: key for key in words.OVERALL}
    blocks: list[Block] = []
    columns: dict[str, list[str]] = {}
    for label, run in runs.items():
        try:
            found = run.evaluations[name]["figures"]
            columns[label] = [str(found["n"]), str(found["n_groups"]), *(told(found[key]) for key in titles)]
        except (KeyError, TypeError, ValueError):
            blocks.append(Missing(f"{label} has no such figures."))
    heads = ["pictures", "groups", *(title.replace("_", " ") for title in titles.values())]
    rows = [list(cells) for cells in zip(heads, *columns.values(), strict=True)]
    about = f"; {words.ABOUT_BOXES}" if are_detectors else ""
    blocks.append(Table(["figure", *columns], rows, f"figures [95 % interval over groups]{about}"))
    if series := {label: ranges for label, run in runs.items() if (ranges := shares_of(run, name))}:
        blocks.append(forest(series, "run"))
        blocks += _paired(runs, name)
    else:
        blocks.append(Text("fx evaluate RUN RUN tells what one detector gains over another."))
    return Section(f"Figures: {name}", blocks)


def _paired(runs: Mapping[str, Kept], name: str) -> Iterator[Block]:
    """What each run gains over the first, on the same pictures; nobody named these comparisons before."""
    said = {label: found for label, run in runs.items() if (found := _said(run, name)) is not None}
    if len(said) < 2:
        yield Missing("Too few of their answers are kept to compare them picture by picture.", "fx evaluate RUN RUN")
        return
    labels = list(said)
    lines = []
    for label in console.progress(labels[1:], total=len(labels) - 1, what="compare", unit="run"):
        (first, classes, cold), (other, others, warm) = said[labels[0]], said[label]
        is_alike = classes == others and alike(runs[labels[0]].rows, runs[label].rows)
        shared = first.shared(other) if is_alike else None
        if shared is None:
            lines.append(f"{label} was measured on other pictures or classes than {labels[0]}: it is not compared")
            continue
        if len(shared[0].paths) < max(len(first.paths), len(other.paths)):
            lines.append(f"of the pictures, {len(shared[0].paths)} are shared by {labels[0]} and {label}")
        trainings = min(_seeds(runs[labels[0]]), _seeds(runs[label]))
        gained = gains(*shared, temperatures=(cold, warm), names=(labels[0], label), primary=False, trainings=trainings)
        lines += [each.verdict for each in gained]
    yield Text(f"What each gains over {labels[0]}, picture by picture, by answers that were kept; exploratory:")
    yield Bullets(lines)


def _said(run: Kept, name: str) -> tuple[Labelled, Sequence[str], float] | None:
    """What a run said of a part: its answers, classes and temperature."""
    file = run.run.oof_file if name == "oof" else run.run.path / "predictions" / f"{name}.csv"
    try:
        said, classes = read_labelled(file.read_bytes().decode("utf-8"))
        return said, classes, float(run.evaluations[name]["temperature"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _seeds(run: Kept) -> int:
    seeds = run.section("ensemble", "seeds")
    return seeds if isinstance(seeds, int) else 1
