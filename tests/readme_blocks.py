"""Makes the generated blocks of README.md; `python tests/readme_blocks.py` writes them, test_readme checks them."""

import ast
import inspect
import json
import re
import sys
from functools import partial
from pathlib import Path

from pydantic import BaseModel

README = Path(__file__).resolve().parent.parent / "README.md"
BENCH = README.parent / "recipes" / "results" / "bench.json"
BLOCK = re.compile(r"(<!-- generated: (?P<name>[\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def commands():
    from typer.testing import CliRunner

    from fxcli.cli import app

    lines = ["| command | what it does |", "|---|---|"]
    for info in app.registered_commands:
        lines.append(f"| `fx {info.name}` | {first_line(info.callback)} |")
    for group in app.registered_groups:
        if root := group.typer_instance.registered_callback:
            lines.append(f"| `fx {group.name}` | {first_line(root.callback)} |")
        for info in group.typer_instance.registered_commands:
            name = info.name or info.callback.__name__
            lines.append(f"| `fx {group.name} {name}` | {first_line(info.callback)} |")
    assert CliRunner().invoke(app, ["--help"]).exit_code == 0
    return "\n".join(lines)


def first_line(function):
    return " ".join(inspect.getdoc(function).split("\n\n")[0].split())


def recipes():
    from fxcli.recipe.load import load, shipped

    lines = ["| recipe | task | what it does |", "|---|---|---|"]
    for name, path in shipped().items():
        comment = path.read_text(encoding="utf-8").partition("\n")[0].lstrip("# ")
        about = comment.partition(" — ")[2] or comment
        lines.append(f"| `{name}` | {load(path).recipe.task} | {about} |")
    return "\n".join(lines)


def keys():
    from fxcli.recipe import detection, preparation, schema
    from fxcli.zoo.plugins import load_zoo

    tasks: dict[str, list[str]] = {}
    zoo = load_zoo()
    for task, models in {
        "prepare": {"": preparation.PrepareRecipe},
        "classify": {"": schema.ClassifyRecipe, " ": schema.Phase},
        "detect": {"": detection.DetectRecipe, " ": detection.DetectPhase},
        **{f"detect ({name})": {"detect.options.": spec.options} for name, spec in zoo.detectors().items()},
        "pretrain": {"": schema.PretrainRecipe},
        **{f"pretrain ({name})": {"pretrain.options.": spec.options} for name, spec in zoo.pretrainers().items()},
        "study": {
            "": schema.StudyRecipe,
            "runs.NAME.": schema.StudyRun,
            "comparisons.NUMBER.": schema.StudyComparison,
        },
    }.items():
        for prefix, model in models.items():
            for row in rows(model, prefix.strip()):
                tasks.setdefault(row, []).append(task)
    lines = ["| key | default | meaning | task |", "|---|---|---|---|"]
    return "\n".join([*lines, *(f"{row} {', '.join(names)} |" for row, names in tasks.items())])


def rows(model, prefix):
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from rows(kind, f"{prefix}{name}.")
        elif field.description:
            default = "null" if field.default is None else "–" if field.is_required() else f"{field.default}"
            about = field.description.replace("|", "\\|")
            yield f"| `{prefix}{name}` | {default} | {about} |"


def hooks():
    from fxcli.zoo import hookspecs

    found = [
        f'def {node.name}({", ".join(arg.arg for arg in node.args.args)}):\n    """{ast.get_docstring(node)}"""\n'
        for node in ast.parse(inspect.getsource(hookspecs)).body
        if isinstance(node, ast.FunctionDef)
    ]
    return "```python\n" + "\n\n".join(found) + "```"


def exit_codes():
    import fxcli.errors

    tree = inspect.getdoc(fxcli.errors).split("\n\n")[1]
    return f"```text\n{inspect.cleandoc(tree)}\n```"


def bench():
    record = json.loads(BENCH.read_text(encoding="utf-8"))
    machine, packages = record["machine"], record["machine"]["packages"]
    names = ("torch", "openvino", "onnxruntime", "timm", "grad-cam")
    lines = [
        f"{machine['cpu']}, {machine['cores']} cores, {', '.join(machine['flags'])}; "
        + ", ".join(f"{name} {packages[name]}" for name in names if name in packages),
        "",
        "| work | fx | against | times as fast [95 %] | aim | reached |",
        "|---|---|---|---|---|---|",
    ]
    for part in record["parts"].values():
        lines += [bench_line(row) for row in part["rows"] if row["ratio"]]
    return "\n".join(lines)


def bench_line(row):
    ratio, aim = row["ratio"], row["aim"]
    digits = 4 if row["unit"] == "correlation" else 2
    low, high = ratio["low"], ratio["high"]
    shown = f"{ratio['median']:.{digits}f}" + (f" [{low:.{digits}f}, {high:.{digits}f}]" if low < high else "")
    if row["unit"] in ("MiB", "s") and aim and aim["at_most"]:
        shown += f" of its {'memory' if row['unit'] == 'MiB' else 'time'}"
    elif row["unit"] == "correlation":
        shown = f"correlation {shown}"
    wanted = f"{'≤' if aim['at_most'] else '≥'} {aim['value']:g}" if aim else ""
    reached = {True: "yes", False: "**no**", None: ""}[row["reached"]]
    return f"| {row['what']} | {row['side']} | {row['peer']} | {shown} | {wanted} | {reached} |"


def study(name, folder=None):
    from fxcli.commands.study import COLUMNS, NOTHING, cells, recalls, verdicts
    from fxcli.recipe.load import load
    from fxcli.recipe.study import entries
    from fxcli.training.results import Results, report

    loaded = load(README.parent / "recipes" / f"{name}.yaml")
    results = Results(folder or README.parent / loaded.recipe.results)
    found = report(loaded.recipe, entries(loaded.recipe, loaded.runs), results)
    lines = []
    for part, title in (("test", "Test part [95 %]"), ("oof", "Out of fold [95 %]")):
        if table := cells(found["rows"], part):
            lines += [f"{title}:", "", *table_of(COLUMNS, table), ""]
            lines += ["Recall of each class, % [95 %]:", "", *table_of(*recalls(found["rows"], part)), ""]
    lines += [f"- {line}" for line in [*verdicts(found["comparisons"]), *found["notes"]]]
    return "\n".join(lines).strip() or NOTHING


def table_of(columns, rows):
    return [f"| {' | '.join(cells)} |" for cells in (columns, ["---"] * len(columns), *rows)]


MAKERS = {
    "commands": commands,
    "recipes": recipes,
    "keys": keys,
    "hooks": hooks,
    "exit-codes": exit_codes,
    "bench": bench,
    "experiments": partial(study, "experiments"),
    "ideas": partial(study, "ideas"),
    "beaten": partial(study, "beaten"),
    "best-published": partial(study, "best_published"),
    "pretraining": partial(study, "pretraining"),
    "pretraining-labels": partial(study, "pretraining_labels"),
    "pretraining-finetune": partial(study, "pretraining_finetune"),
    "pretraining-fracatlas": partial(study, "pretraining_fracatlas"),
}


def filled(text):
    return BLOCK.sub(lambda found: f"{found[1]}{MAKERS[found['name']]()}\n{found[3]}", text)


if __name__ == "__main__":
    README.write_text(filled(README.read_text(encoding="utf-8")), encoding="utf-8")
    sys.stdout.write("README.md written\n")
