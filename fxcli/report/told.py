"""What a report tells of one run: what was run, on which data, how it learnt, and its model card. Called by build."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

from fxcli.console import ASSUMES_FRACTURE, DEMO, INTENDED_USE
from fxcli.data.manifest import LEARNT, counted
from fxcli.report import figures
from fxcli.report.blocks import Block, Bullets, Code, Facts, Figure, Missing, Section, Table, Text
from fxcli.report.figures import Line
from fxcli.report.kept import Kept

# Of a metrics.jsonl, what is no figure of the network.
_NO_FIGURES = {"step", "epoch", "phase", "seconds", "data_wait_s", "compute_s", "images_per_s"}
_MOST_EPOCHS = 40
# More lines could not be told apart by colour and dashes.
_MOST_PARTS = 12


def what_was_run(run: Kept) -> Section:
    """Settings, versions, and how it ended."""
    info, phases = run.info, run.section("phases")
    planned = [_of(phase, "train", "epochs") for phase in phases.values()] if isinstance(phases, dict) else []
    planned = planned or [run.section("train", "epochs")]
    whole = sum(planned) if all(type(count) is int for count in planned) else None
    seconds = _of(info, "seconds", "spent_s")
    done = info.get("epoch") or (run.epochs[-1]["epoch"] if run.epochs else None)
    facts = [
        ("recipe", text_of(info.get("recipe"))),
        ("task", run.task),
        ("status", run.status),
        ("started", text_of(info.get("created"))),
        ("ended", text_of(info.get("ended"))),
        ("ended by", text_of(info.get("ended_by"))),
        ("time spent", "" if not isinstance(seconds, int | float) else f"{seconds / 60:.1f} minutes"),
        ("command", shlex.join(["fx", *map(str, _list(info.get("argv")))])),
        ("backbone", text_of(run.section("model", "backbone"))),
        ("started from", _weights(run)),
        ("detector", text_of(run.section("detect", "detector"))),
        ("pretraining", text_of(run.section("pretrain", "method"))),
        ("epochs", "" if done is None else f"{done}" + (f" of {whole}" if whole else "")),
        ("best", _best(info)),
        ("trainings", ", ".join(f"{name}: {part.status}" for name, part in run.parts.items())),
        ("seed", text_of(info.get("seed"))),
        ("computed on", _computed_on(info)),
        ("fx", text_of(info.get("fx_version"))),
        ("recipe sha256", text_of(info.get("recipe_sha256"))),
        ("manifest sha256", text_of(info.get("manifest_sha256"))),
        ("model sha256", run.digest),
    ]
    blocks: list[Block] = [Facts(facts)]
    if run.status in ("interrupted", "died", "failed"):
        how = {"interrupted": "was stopped", "died": "was killed", "failed": "failed"}[run.status]
        why = f": {info['error']}" if info.get("error") else ""
        blocks.insert(0, Missing(f"This run {how} before its end{why}.", f"fx train --resume {run.quoted}"))
    elif run.status == "running":
        blocks.insert(0, Missing("This run is in progress: what follows is what there is so far."))
    blocks += [Missing(f"{line}.") for line in run.problems]
    blocks += [Missing(f"{name}: {line}.") for name, part in run.parts.items() for line in part.problems]
    plugins = {f"plugin {name}": value for name, value in _mapping(info.get("plugins")).items()}
    versions = {**_mapping(info.get("versions")), "python": info.get("python"), **plugins}
    blocks.append(Code("versions", "\n".join(f"{name} {text_of(value)}" for name, value in versions.items())))
    if run.recipe_text:
        blocks.append(Code("the recipe as it ran, with every default", run.recipe_text))
    return Section("What was run", blocks)


def _best(info: Mapping[str, Any]) -> str:
    if info.get("best") is None or info.get("best_epoch") is None:
        return ""
    return f"{info.get('monitor')} {number(info['best'])} in epoch {info['best_epoch']}"


def _weights(run: Kept) -> str:
    init = _mapping(run.info.get("init"))
    name = text_of(init.get("name") or run.section("model", "init"))
    about = [text_of(init.get("reference")), f"licence {text_of(init['licence'])}" if init.get("licence") else ""]
    told = "; ".join(part for part in about if part)
    return f"{name} weights ({told})" if told else name


def _computed_on(info: Mapping[str, Any]) -> str:
    compute, hardware = _mapping(info.get("compute")), _mapping(info.get("hardware"))
    parts = [compute.get("device_name") or compute.get("device"), compute.get("precision")]
    parts += [f"{compute['threads']} threads" if compute.get("threads") else None]
    parts += [
        f"{hardware.get('system')} {hardware.get('machine')}, {hardware.get('cores')} cores" if hardware else None
    ]
    return ", ".join(str(part) for part in parts if part)


def data(run: Kept) -> Section:
    """Which pictures there are, and what an audit found."""
    found, blocks = run.fingerprint, list[Block]()
    audit = _mapping(found.get("audit"))
    straddling = run.info.get("straddling_test")
    facts = [
        ("name", text_of(found.get("name"))),
        ("prepared", text_of(found.get("created"))),
        ("pictures", str(len(run.rows)) if run.rows else ""),
        ("groups (patients, studies, copies)", text_of(found.get("groups"))),
        ("width, px", _spread(found.get("width_px"))),
        ("height, px", _spread(found.get("height_px"))),
        ("could not be read", str(len(_list(found.get("unreadable")))) if found else ""),
        ("licence", text_of(found.get("licence")) or "not known to fx: see where the pictures come from"),
    ]
    blocks.append(Facts(facts))
    if run.info.get("demo"):
        blocks.append(Text("These pictures were drawn by fx: they are phantoms."))
    if run.rows:
        blocks.append(Table(*counted(run.rows), "pictures of each class and part"))
    else:
        blocks.append(Missing("The run has no manifest: how many pictures there are is not known."))
    if audit:
        lines = [(key.replace("_", " "), number(value)) for key, value in audit.items() if type(value) in (int, float)]
        blocks.append(Table(["audit", "found"], lines, "what fx prepare found when it compared all pictures"))
    else:
        blocks.append(Missing("No audit is known of these pictures.", "fx prepare RECIPE"))
    if isinstance(straddling, int) and straddling:
        blocks.append(
            Missing(
                f"{straddling} test pictures share a group with pictures that were learnt from: figures "
                "on them flatter."
            )
        )
    return Section("Data and audit", blocks)


def _spread(values: Any) -> str:
    keys = ("min", "median", "max")
    if not isinstance(values, dict) or not all(isinstance(values.get(key), int | float) for key in keys):
        return ""
    return "{:.0f} to {:.0f}, half of them up to {:.0f}".format(values["min"], values["max"], values["median"])


def learning(run: Kept) -> Section:
    """Curves over epochs, of each training in it."""
    parts = {name: part for name, part in run.parts.items() if part.epochs}
    if run.epochs:
        return Section("Learning curves", list(_own_curves(run)))
    if parts:
        return Section("Learning curves", list(curves_of(parts, monitor_of(next(iter(parts.values()))))))
    again = "" if run.status == "finished" else f"fx train --resume {run.quoted}"
    return Section("Learning curves", [Missing("No epoch is finished yet.", again)])


def _own_curves(run: Kept) -> Iterator[Block]:
    breaks = {
        (before["epoch"] + after["epoch"]) / 2: str(after.get("phase"))
        for before, after in pairwise(run.epochs)
        if before.get("phase") != after.get("phase")
    }
    for title, names in _charts(run.epochs).items():
        lines = [line_of(run.epochs, name, name.replace("_", " ")) for name in names]
        table = _epoch_table(run.epochs, names)
        is_share = title != "loss" and all(0 <= value <= 1 for line in lines for value in line.y)
        alt = f"{title} over epochs: " + "; ".join(
            f"{line.name} from {number(line.y[0])} to {number(line.y[-1])}" for line in lines
        )
        svg = figures.curves(
            lines,
            alt=alt,
            x="epoch",
            y="" if len(names) > 1 else names[0].replace("_", " "),
            is_share=is_share,
            breaks=breaks,
        )
        yield Figure(svg, title, table)


def _charts(epochs: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    """Title → names of the figures that share an axis: losses, shares of validation, and each of the others alone."""
    found: dict[str, list[str]] = {}
    names = dict.fromkeys(name for values in epochs for name in values if name not in _NO_FIGURES)
    for name in names:
        values = line_of(epochs, name, name).y
        if not values:
            continue
        is_share = all(0 <= value <= 1 for value in values)
        if "loss" in name:
            title = "loss"
        elif is_share and name.startswith("val_"):
            title = "figures of the validation part"
        else:
            title = name.replace("_", " ")
        found.setdefault(title, []).append(name)
    return found


def curves_of(runs: Mapping[str, Kept], monitor: str) -> Iterator[Block]:
    """The training loss and one more figure of several trainings, beside each other."""
    shown = dict(list(runs.items())[:_MOST_PARTS])
    if len(shown) < len(runs):
        yield Text(f"The first {len(shown)} of {len(runs)} trainings.")
    for name in dict.fromkeys(["train_loss", monitor]):
        lines = [line_of(run.epochs, name, label) for label, run in shown.items()]
        lines = [line for line in lines if line.x]
        if not lines:
            continue
        title = name.replace("_", " ")
        alt = f"{title} over epochs: " + "; ".join(f"{line.name} ends at {number(line.y[-1])}" for line in lines)
        is_share = "loss" not in name and all(0 <= value <= 1 for line in lines for value in line.y)
        rows = [[line.name, number(line.x[-1]), number(line.y[0]), number(line.y[-1])] for line in lines]
        table = Table(["training", "epochs", "first", "last"], rows, title)
        yield Figure(figures.curves(lines, alt=alt, x="epoch", y=title, is_share=is_share), title, table)


def monitor_of(run: Kept) -> str:
    """The figure that its best epoch was chosen by, or what stands for it."""
    told = run.info.get("monitor")
    names = (name for values in run.epochs for name in values)
    known = [name for name in names if name not in _NO_FIGURES and not name.startswith("train_loss")]
    return told if isinstance(told, str) and told in known else next(iter(known), "train_loss")


def line_of(epochs: Sequence[Mapping[str, Any]], name: str, label: str) -> Line:
    """A figure of metrics.jsonl over the epochs that have it."""
    points = [(each["epoch"], each[name]) for each in epochs if type(each.get(name)) in (int, float)]
    return Line(label, [x for x, _ in points], [y for _, y in points])


def _epoch_table(epochs: Sequence[Mapping[str, Any]], names: Sequence[str]) -> Table:
    step = -(-len(epochs) // _MOST_EPOCHS)
    shown = epochs[(len(epochs) - 1) % step :: step]
    rows = [[str(each["epoch"]), *(number(each.get(name)) for name in names)] for each in shown]
    rest = "" if step == 1 else f"; each {step}th epoch, metrics.jsonl has all"
    return Table(["epoch", *(name.replace("_", " ") for name in names)], rows, f"of each epoch{rest}")


def card(run: Kept, headline: Sequence[str]) -> Section:
    """The model card: what the model is for, what it learnt from, and what it cannot do."""
    header, found = run.header, run.fingerprint
    classes = [str(name) for name in _list(header.get("classes"))]
    parts = LEARNT if run.is_in_folds else _list(run.section("data", "splits")) or ["train"]
    learnt, frac = sum(row.split in parts for row in run.rows), run.section("data", "train_frac")
    share = f", {100 * frac:g} % of them drawn" if isinstance(frac, float) and frac < 1 else ""
    share += ", of which those whose boxes are known" if run.task == "detect" else ""
    facts = [
        ("model", f"{run.name}, recipe {text_of(run.info.get('recipe'))}"),
        (
            "answers",
            "boxes around what it finds"
            if run.task == "detect"
            else "nothing: it is a backbone to start from"
            if run.task == "pretrain"
            else "one class of each picture",
        ),
        ("classes", ", ".join(classes) if run.task != "pretrain" else ""),
        ("intended use", text_of(header.get("intended_use")) or INTENDED_USE),
        ("not intended", "decisions about patients, alone or beside a person"),
        (
            "learnt from",
            f"{found.get('name') or 'pictures'}: {learnt} pictures{share}" if run.rows else "",
        ),
        ("figures", "; ".join(headline) or "none was measured"),
        ("licence of the pictures", text_of(found.get("licence")) or "not known to fx; it may bind the model, too"),
        ("pretrained weights", _weights(run)),
        ("use it", f"fx predict FOLDER --model {run.quoted}" if run.digest and run.task != "pretrain" else ""),
    ]
    return Section("Model card", [Facts(facts), Bullets(list(_limits(run)))])


def _limits(run: Kept) -> Iterator[str]:
    if run.info.get("demo"):
        yield DEMO
    if run.task == "classify" and run.header and run.header.get("negative_class") is None:
        yield f"{ASSUMES_FRACTURE} It has no class for none."
    if run.task == "classify" and run.header and not _of(run.header, "uncertainty", "source"):
        yield (
            "Nothing was fitted to pictures that it had not seen: its probabilities are not calibrated, and it has "
            "neither prediction sets nor abstention."
        )
    if run.rows and not any(row.patient for row in run.rows):
        yield "No patient is known of its pictures: pictures of one person may stand in several parts."
    # `leaked` tells of the source: fx prepare may have left the copies out of what is learnt from.
    learnt = {row.group for row in run.rows if row.split in LEARNT}
    if leaked := sum(row.leaked == "yes" and (not row.group or row.group in learnt) for row in run.rows):
        yield f"{leaked} of its test pictures were learnt from, too, as copies."
    look = run.evaluations.get("test", {}).get("look")
    if isinstance(look, int) and look > 1:
        yield (
            f"Its test part had been looked at {look} times when it was measured: "
            "a figure that was chosen among several flatters."
        )
    yield "Figures hold for pictures like those that were measured: of other hospitals or devices nothing is known."
    if run.task == "classify":
        yield "Heat maps show what spoke for an answer, not where a fracture is."


def text_of(value: Any) -> str:
    """A value of a file, as text; nothing for None."""
    return "" if value is None else str(value)


def number(value: Any) -> str:
    """A number, short."""
    if type(value) is int or (type(value) is float and value.is_integer() and abs(value) < 1e9):
        return f"{value:.0f}"
    return f"{value:.4g}" if type(value) is float else "–"


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _of(value: Any, *keys: str) -> Any:
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value
