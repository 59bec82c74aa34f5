"""A small study, and what it did; for test_training_study and test_training_study_refused."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

from typer.testing import CliRunner

from fxcli.cli import app
from fxcli.console import console
from fxcli.data.manifest import read_manifest, write_manifest
from fxcli.run import ledger
from fxcli.training import loop

ORDER = ["one/plain-s0", "one/slow-s0", "one/plain-s1", "one/slow-s1"]


def fx(*arguments):
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    console.configure()
    return done


def studied(tiny_recipe, prepared):
    """study.yaml in the current folder: two recipes of one epoch, two seeds, pictures that leaked and others."""
    tiny_recipe()
    text = Path("tiny.yaml").read_text(encoding="utf-8").replace("epochs: 2", "epochs: 1")
    Path("tiny.yaml").write_text(text, encoding="utf-8")
    Path("data").mkdir()
    shutil.copytree(prepared / "pictures", "data/pictures")
    shutil.copy(prepared / "fingerprint.json", "data")
    rows = read_manifest(prepared / "manifest.csv").rows
    told = [
        replace(row, leaked="yes" if number % 2 else "no") if row.split == "test" else row
        for number, row in enumerate(rows)
    ]
    write_manifest(Path("data/manifest.csv"), told)
    Path("study.yaml").write_text(
        "task: study\n"
        "seeds: [0, 1]\n"
        "data: {one: data/manifest.csv}\n"
        "set: {data.workers: 0}\n"
        "runs:\n"
        "  plain: {recipe: tiny.yaml, published: 50}\n"
        "  slow: {recipe: tiny.yaml, set: {optim.lr: 1e-4}}\n"
        "comparisons: [{a: plain, b: slow, data: one}]\n"
        "results: results\n",
        encoding="utf-8",
    )
    return Path("study.yaml")


def counted(monkeypatch):
    """The trainings that begin, by name; and errors by number: that of `stops[2]` ends the second of them."""
    begun, stops = [], {}
    real = loop.train

    def train(which, run, *, resume):
        begun.append("/".join(run.path.parts[-2:]))
        if error := stops.pop(len(begun), None):
            raise error
        return real(which, run, resume=resume)

    monkeypatch.setattr(loop, "train", train)
    return begun, stops


def index():
    return json.loads(Path("results/index.json").read_text(encoding="utf-8"))


def looks():
    return [json.loads(line) for line in Path("data", ledger.NAME).read_text(encoding="utf-8").splitlines()]


def files(folder):
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in Path(folder).rglob("*.*")}
