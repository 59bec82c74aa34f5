"""What a report tells of figures that `fx evaluate` wrote. No model is run: numbers stay as they are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from fxcli.evaluation import words
from fxcli.evaluation.words import told
from fxcli.report import figures
from fxcli.report.blocks import Block, Facts, Figure, Missing, Section, Table, Text
from fxcli.report.figures import Range
from fxcli.report.kept import Kept
from fxcli.run.ledger import Look

# What lies in 0…1, more being better, and can stand beside each other.
SHARES = ("accuracy", "balanced_accuracy", "macro_f1", "auroc")
_PARTS = {
    "test": "test part",
    "val": "validation part",
    "oof": "out-of-fold answers of the training pictures",
    "calibration": "calibration part",
}
# Beyond so many classes a table of confusions is wider than a page.
_MOST_CLASSES = 25
# How strongly the fullest cell is coloured; more would make its text hard to read.
STRONGEST = 0.45


def measured(run: Kept) -> Section:
    """A part for each evaluation of a run, and what was not measured."""
    parts, blocks = [], list[Block]()
    for name, values in run.evaluations.items():
        try:
            parts.append(_evaluation(run, name, values))
        except (KeyError, TypeError, ValueError, IndexError, AttributeError, RuntimeError):
            blocks.append(
                Missing(f"evaluation/{name}.json is damaged, or of another version of fx.", _again(run, name))
            )
    if run.task == "pretrain":
        return Section("Figures", [Text("A pretrained backbone gives no answers: train a classifier from it.")])
    if not run.digest:
        blocks.append(Missing("There is no finished model to be measured."))
    there = {row.split for row in run.rows} | ({"oof"} if run.is_in_folds else set())
    for name in ("test", "oof" if run.is_in_folds else "val") if run.digest else ():
        if name not in run.evaluations and name in there:
            blocks.append(Missing(f"The {_PARTS[name]} was not measured.", _again(run, name)))
    if not parts and (plain := run.info.get("figures")):
        blocks.append(_plain(plain, is_oof=run.is_in_folds))
    shares = {name: _ranges(values) for name, values in run.evaluations.items() if run.task == "classify"}
    if drawn := {name: ranges for name, ranges in shares.items() if any(ranges)}:
        blocks.append(forest(drawn, "part"))
    return Section("Figures", blocks, parts)


def _again(run: Kept, name: str) -> str:
    if name not in _PARTS:
        return ""  # of other pictures, or with options that its name alone does not tell
    return f"fx evaluate {run.quoted}" + ("" if name == "test" else f" --split {name}")


def _plain(values: Any, *, is_oof: bool) -> Block:
    """What training itself kept of its validation part."""
    found = values if isinstance(values, dict) else {}
    rows = [
        (name, f"{value:.3f}" if type(value) is float else str(value))
        for name, value in found.items()
        if type(value) in (int, float)
    ]
    part = "out-of-fold answers" if is_oof else "validation part"
    return Table(["figure", "value"], rows, f"{part}, at the end of training; without intervals")


def forest(series: Mapping[str, Sequence[Range | None]], what: str) -> Figure:
    """Shares with intervals, of parts or of runs."""
    names = [name.replace("_", " ") for name in SHARES]
    rows = [[label, *(_text(each) for each in ranges)] for label, ranges in series.items()]
    alt = "; ".join(
        f"{label}: " + ", ".join(f"{name} {_text(each)}" for name, each in zip(names, ranges, strict=True))
        for label, ranges in series.items()
    )
    svg = figures.intervals(names, series, alt=f"Figures with 95 % intervals. {alt}")
    return Figure(svg, "figures with 95 % intervals over groups", Table([what, *names], rows))


def shares_of(run: Kept, name: str) -> list[Range | None]:
    """SHARES of an evaluation; empty where it is not there or damaged."""
    return _ranges(run.evaluations.get(name, {}))


def _ranges(values: Mapping[str, Any]) -> list[Range | None]:
    try:
        return [_range(values["figures"][name]) for name in SHARES]
    except (KeyError, TypeError, ValueError):
        return []


def _range(value: Mapping[str, Any] | None) -> Range | None:
    if value is None or value["value"] is None:
        return None
    low, high = (None if value[end] is None else float(value[end]) for end in ("low", "high"))
    return Range(float(value["value"]), low, high)


def _text(value: Range | None) -> str:
    return told(None if value is None else {"value": value.value, "low": value.low, "high": value.high})


def headline(run: Kept) -> list[str]:
    """The figure that comes first, of each plain part."""
    found = []
    for name in ("test", "oof", "val"):
        values = run.evaluations.get(name, {})
        key = "ap50" if run.task == "detect" else "balanced_accuracy"
        try:
            figure = told(values["figures"][key])
        except (KeyError, TypeError, ValueError):
            continue
        found.append(f"{words.BOXES.get(key, key.replace('_', ' '))} {figure} on the {_PARTS[name]}")
    return found


def _evaluation(run: Kept, name: str, values: Mapping[str, Any]) -> Section:
    title = _PARTS.get(name, name)
    blocks: list[Block] = []
    if run.digest and values.get("sha256") not in (None, run.digest) and "-model-" not in name:
        blocks.append(Missing("This was measured of another model file than the run has now.", _again(run, name)))
    if "look" in values:
        blocks.append(Text(_sentence(Look(int(values["look"]), int(values["models_that_looked"])).told())))
    if values["n_failed"]:
        blocks.append(Missing(f"{int(values['n_failed'])} pictures could not be read, and are not measured."))
    blocks += _boxes(values) if run.task == "detect" else _classes(values)
    return Section(title[0].upper() + title[1:], blocks)


def _boxes(values: Mapping[str, Any]) -> Iterator[Block]:
    found = values["figures"]
    yield Facts(
        [
            ("pictures", str(found["n"])),
            ("with boxes", str(found["n_positive"])),
            ("boxes", str(found["n_boxes"])),
            ("groups", str(found["n_groups"])),
            ("pictures whose boxes are not known", str(values["n_unknown"])),
        ]
    )
    rows = [[title, told(found[key])] for key, title in words.BOXES.items()]
    yield Table(["figure", "value [95 % interval]"], rows, words.ABOUT_BOXES)
    if len(found["class_ap50"]) > 1:
        yield Table(["class", "AP50"], [[each, told(value)] for each, value in found["class_ap50"].items()])
    for column, by in values.get("by", {}).items():
        yield Table(*words.boxes_by_value(column, by), f"by {column}")
    if "metadata" in values:
        yield Text(words.metadata(values["metadata"]))


def _classes(values: Mapping[str, Any]) -> Iterator[Block]:
    found = values["figures"]
    yield Facts(
        [
            ("pictures" if values["unit"] == "picture" else str(values["unit"]), str(found["n"])),
            ("groups", str(found["n_groups"])),
            ("measured", str(values["evaluated"])),
            ("computed by", f"{values['engine']} {values['precision']}"),
            ("temperature", f"{values['temperature']:.3f}"),
        ]
    )
    yield Table(
        ["figure", "value [95 % interval]"], [[key.replace("_", " "), told(found[key])] for key in words.OVERALL]
    )
    per_class = found["per_class"]
    yield Table(*words.per_class(per_class), "each class")
    yield _confusion(list(per_class), found["confusion"])
    yield _reliability(values)
    yield _risk_coverage(values["risk_coverage"])
    yield from _known_errors(values)
    for column, by in values["by"].items():
        columns, rows = words.by_value(column, by)
        yield Table([column, *(name.replace("_", " ") for name in columns[1:])], rows, f"by {column}")
    if "metadata" in values:
        yield Text(words.metadata(values["metadata"]))


def _confusion(names: Sequence[str], counts: Sequence[Sequence[int]]) -> Block:
    if len(names) > _MOST_CLASSES:
        return Text(f"How often each of {len(names)} classes was called which stands in the evaluation's JSON file.")
    shades = [[STRONGEST * count / max(1, sum(row)) for count in row] for row in counts]
    title = "confusion matrix: how often a class (row) was called which (column)"
    return Table(*words.confusion(names, counts), title, shades)


def _reliability(values: Mapping[str, Any]) -> Block:
    bins = values["reliability"]
    accuracy = [_range(each["accuracy"]) or Range(0.0) for each in bins]
    confidence = [float(each["confidence"]) for each in bins]
    rows = [
        [f"{at:.3f}", _text(each), str(bin_["n"])] for at, each, bin_ in zip(confidence, accuracy, bins, strict=True)
    ]
    table = Table(["probability of the answer", "share that is right", "n"], rows)
    sentence = words.calibration(values["figures"])
    alt = f"Reliability diagram in {len(bins)} bins: {sentence}"
    return Figure(figures.reliability(confidence, accuracy, alt=alt), f"reliability: {sentence}", table)


def _risk_coverage(curve: Mapping[str, Any]) -> Block:
    points = list(zip(curve["coverage"], curve["risk"], curve["threshold"], strict=True))
    table = Table(
        ["answered", "error among them", "probability above"],
        [[f"{100 * at:.1f} %", f"{100 * risk:.1f} %", f"{least:.3f}"] for at, risk, least in points],
    )
    line = figures.Line("error", [at for at, _, _ in points], [risk for _, risk, _ in points])
    alt = f"Risk–coverage curve: error {line.y[0]:.3f} among the surest {line.x[0]:.3f}, {line.y[-1]:.3f} among all"
    svg = figures.curves(
        [line], alt=alt, x="share answered, the surest first", y="error among the answered", is_share=True
    )
    return Figure(svg, f"risk–coverage: the area below is {told(curve['aurc'])}", table)


def _known_errors(values: Mapping[str, Any]) -> Iterator[Block]:
    """What the model says of its own errors, and how that turned out."""
    if "unlike_training" in values:
        yield Text(_sentence(words.unlike(values["unlike_training"])))
    if "binary" in values:
        found = values["binary"]
        yield Table(
            ["rate", "value [95 % interval]"],
            [[rate, told(found[rate])] for rate in words.RATES],
            words.finding(found, values["split"]),
        )
    if "sets" in values:
        yield Text(_sentence(words.sets(values["sets"])))
        for line in values["sets"]["notices"]:
            yield Text(_sentence(str(line)))
        if rows := list(words.abstentions(values["abstentions"])):
            yield Table(words.ABSTENTIONS, rows, "answering only where it is sure")


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."
