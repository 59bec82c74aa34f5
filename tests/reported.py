"""Tiny runs to be reported on, and what is looked for in pages; for test_report_*."""

import contextlib
import json
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fxcli.cli import app
from fxcli.console import console
from fxcli.run.directory import Run

NAME = "b<i>&\"'$x$"
VOID = {"meta", "img", "br", "link", "input"}


def fx(*arguments):
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    console.configure()
    return done


def well(*arguments):
    done = fx(*arguments)
    assert done.exit_code == 0, done.output
    return done


@contextlib.contextmanager
def own_cache(folder):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FX_CACHE_DIR", str(folder / "cache"))
        yield


def recipe(file, manifest, *lines, task="classify"):
    file.write_text(
        f"task: {task}\ndata: {{manifest: '{manifest}', workers: 0, image_size_px: 64}}\n"
        "model: {backbone: demo_tiny, init: random}\n" + "\n".join(lines) + "\n",
        encoding="utf-8",
    )
    return file


class Page(HTMLParser):
    """A page taken apart; tags that do not fit each other are an error.

    Attributes:
        tags: (tag, attributes), in order.
        text: All text, spaces folded, without that of style and script.
        cells: The rows of each table.
    """

    def __init__(self, text):
        super().__init__()
        self.tags, self.cells, self._open, self._words = [], [], [], []
        self.feed(text)
        self.close()
        assert self._open == [], "tags that stay open"
        self.text = " ".join(" ".join(self._words).split())

    def handle_starttag(self, tag, attrs):
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names)), (tag, attrs)
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)
        if tag == "table":
            self.cells.append([])
        elif tag == "tr":
            self.cells[-1].append([])
        elif tag in ("td", "th"):
            self.cells[-1][-1].append("")

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self._open.pop() == tag, tag

    def handle_data(self, data):
        if {"style", "script"} & set(self._open):
            return
        self._words.append(data)
        if {"td", "th"} & set(self._open):
            self.cells[-1][-1][-1] += data

    def table(self, *heads):
        """The rows of the first table that begins with these heads."""
        return next(rows[1:] for rows in self.cells if rows and rows[0][: len(heads)] == list(heads))


def page(file):
    return Page(Path(file).read_text(encoding="utf-8"))


def check_harmless(text, found):
    """That a page of a report loads and runs nothing."""
    policies = [a["content"] for tag, a in found.tags if a.get("http-equiv") == "Content-Security-Policy"]
    assert len(policies) == 1
    assert policies[0].startswith("default-src 'none'; img-src data:; style-src 'unsafe-inline'; ")
    assert not [tag for tag, _ in found.tags if tag in ("script", "iframe", "object", "embed", "link", "base", "form")]
    for tag, attributes in found.tags:
        assert not [name for name in attributes if name.startswith("on")], (tag, attributes)
        for name in ("src", "href", "data", "action"):
            value = attributes.get(name)
            assert value is None or value.startswith(("data:image/jpeg;base64,", "#")), (tag, value)
        for value in attributes.values():
            for place in str(value).split("url(")[1:]:
                assert place.startswith("#"), (tag, value)
    assert "@import" not in text
    identifiers = [a["id"] for _, a in found.tags if "id" in a]
    assert len(identifiers) == len(set(identifiers))
    wanted = {a["href"][1:] for _, a in found.tags if a.get("href", "").startswith("#")}
    assert wanted <= set(identifiers)


def make(root, manifest, boxes_manifest):
    """Runs that are trained and measured: one, other, folds, boxes, views."""
    with own_cache(root):
        tiny = recipe(root / "tiny.yaml", manifest, "train: {epochs: 2, batch_size: 8}", "optim: {lr: 3e-3}")
        detect = recipe(
            root / "boxes.yaml",
            boxes_manifest,
            "detect: {options: {channels: 32, finest_stride: 4}}",
            "train: {epochs: 1, batch_size: 8}",
            task="detect",
        )
        views = recipe(
            root / "views.yaml", manifest, "pretrain: {method: simclr}", "train: {epochs: 2}", task="pretrain"
        )
        well("train", tiny, "--out", root / "one", "--quiet")
        well("train", tiny, "--out", root / "other", "--set", "seed=1", "--set", "optim.lr=1e-3", "--quiet")
        well("train", tiny, "--out", root / "folds", "--folds", 2, "--set", "train.epochs=1", "--quiet")
        well("train", detect, "--out", root / "boxes", "--quiet")
        well("train", views, "--out", root / "views", "--quiet")
        for name in ("one", "other"):
            well("evaluate", root / name, "--by", "group", "--quiet")
            well("evaluate", root / name, "--split", "val", "--quiet")
        well("evaluate", root / "folds", "--split", "oof", "--quiet")
        well("evaluate", root / "folds", "--quiet")
        well("evaluate", root / "boxes", "--quiet")


def copying(root):
    """Copies a run into runs/, for a test to change."""

    def copy(name, to=None):
        shutil.copytree(root / name, Path("runs") / (to or name))
        return Run(Path("runs") / (to or name))

    return copy


def report(*arguments):
    done = well("report", *arguments)
    file = Path(done.stdout.strip())
    found = page(file)
    check_harmless(file.read_text(encoding="utf-8"), found)
    return found


def evaluation(run, name):
    return json.loads((run.path / "evaluation" / f"{name}.json").read_text())
