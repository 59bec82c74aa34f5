"""What actors do, and what is told of clusters, without one: with Ray it is in test_predict_on_ray."""

import json
import os
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from fxcli.data.radiograph import Caution
from fxcli.errors import DataError, FxError, MissingDependency, ModelFileError, RunError, UsageError
from fxcli.inference import on_ray, shards
from fxcli.inference.on_ray import Task, Worker
from fxcli.inference.opened import open_model
from fxcli.inference.shards import Told
from fxcli.inference.verdict import open_judge
from fxcli.testing import tiny_dataset

pq = pytest.importorskip("pyarrow.parquet")


@pytest.fixture
def task(trained):
    """Of a model, and how often it was opened."""
    opened = []

    def make():
        opened.append(1)
        open_one = partial(open_model, device="cpu", fast=True, draft=True)
        return open_judge(open_one, str(trained.model_file), sets=False, abstain=None)

    Path("shards").mkdir()
    return Task(make, make().made_with(), "shards", "one", 1), opened


def batch():
    """As Ray gives it; one picture is in colour."""
    files = sorted(tiny_dataset(Path("raw"), per_class=2).rglob("*.png"))
    red, black = Image.radial_gradient("L"), Image.new("L", (256, 256))
    Image.merge("RGB", (red, black, black)).save(files[0])
    cells = np.array([str(file) for file in files])
    names = np.array([os.fsencode(file.absolute()) for file in files], object)
    return {"key": np.array(["k"]), "files": [names], "cells": [cells]}


def test_an_actor_opens_the_model_once_and_tells_of_its_shard(task):
    task, opened = task
    worker = Worker(task)
    assert len(opened) == 1
    for key in ("a", "b"):
        (told,) = worker(batch() | {"key": np.array([key])})["told"]
        found = Told(**json.loads(told))
        assert (found.rows, found.failed, found.command) == (6, 0, "one")
        assert found.cautions == {Caution.COLOUR: 1}
    assert len(opened) == 2
    rows = pq.read_table("shards/a.parquet").to_pylist()
    assert [row["path"] for row in rows] == batch()["cells"][0].tolist()


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"made_with": {"draft": False}}, "this machine would answer with draft True in place of False"),
        ({"made_with": {"new": 1}}, "this machine would answer with new None in place of 1"),
        ({"folder": "elsewhere"}, "elsewhere: this folder is not seen"),
    ],
)
def test_a_machine_that_cannot_do_its_part_says_why(task, change, what):
    made = task[0].__dict__ | change
    if "made_with" in change:
        made["made_with"] = task[0].made_with | change["made_with"]
    (told,) = Worker(Task(**made))(batch())["told"]
    found = json.loads(told)
    assert found["what"].startswith("on ")
    assert what in found["what"]
    assert found["hint"]
    assert list(Path("shards").iterdir()) == []


@pytest.mark.parametrize(
    "error",
    [
        DataError("cannot be written", where="out", hint="make space"),
        MissingDependency("pyarrow", extra="parquet", purpose="Parquet"),
        ModelFileError("damaged"),
        FxError("odd"),
    ],
)
def test_an_error_of_a_machine_keeps_its_code(task, error, monkeypatch):
    def fail(*_):
        raise error

    monkeypatch.setattr(shards, "write", fail)
    (told,) = Worker(task[0])(batch())["told"]
    again = on_ray._again(**json.loads(told))
    assert again.exit_code == error.exit_code
    assert again.what.startswith("on ")
    assert again.what.endswith(f": {error.where}: {error.what}" if error.where else f": {error.what}")
    assert again.hint == (error.hint or on_ray._KEPT)


def test_a_machine_whose_fx_knows_more_says_so(task):
    asked = dict(task[0].made_with)
    del asked["draft"]
    (told,) = Worker(replace(task[0], made_with=asked))(batch())["told"]
    assert "this machine would answer with draft True in place of None" in json.loads(told)["what"]


def test_pictures_that_are_named_twice_are_one_shard_to_write(task, monkeypatch):
    begun = []

    class Dataset:
        def __init__(self, items, **_):
            self.items = items

        def map_batches(self, kind, *, fn_constructor_args, **_):
            self.actor = kind(*fn_constructor_args)
            return self

        def iter_rows(self):
            for item in self.items:
                begun.append(item["key"])
                made = self.actor({name: np.array([value], object) for name, value in item.items()})
                yield {name: value for name, (value,) in made.items()}

    data = SimpleNamespace(from_items=Dataset, ActorPoolStrategy=lambda **_: None)
    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(data=data))
    monkeypatch.setitem(sys.modules, "ray.data", data)
    once, other = (shards.Shard((Path(f"{key}.png"),), (f"{key}.png",), key) for key in "ab")
    told = list(on_ray.written(task[0], [once, other, once, once], room=4))
    assert begun == ["a", "b"]
    assert [(each.rows, each.failed) for each in told] == [(1, 1)] * 4


def test_room_is_that_of_machines_that_live():
    nodes = [
        {"Alive": alive, "Resources": {"CPU": cores, "memory": 1.0}}
        for alive, cores in ((True, 5.0), (True, 2.0), (False, 64.0))
    ]
    nodes.append({"Alive": True, "Resources": {}})
    assert on_ray._room(nodes, 2, "local") == 3
    with pytest.raises(UsageError, match="no machine of the cluster has 6 cores"):
        on_ray._room(nodes, 6, "local")


def test_an_address_is_looked_at_before_ray_tries_for_minutes():
    on_ray._check("local")
    on_ray._check("auto")
    for address in ("ray://host:10001", "host", "host:port", ":x"):
        with pytest.raises(UsageError, match="not HOST:PORT"):
            on_ray._check(address)
    for address in ("127.0.0.1:1", "127.0.0.1:99999"):
        with pytest.raises(RunError, match=f"no Ray cluster can be used at {address}"):
            on_ray._check(address)


def test_names_of_any_bytes_reach_a_machine(task):
    """Arrow's text must be valid UTF-8, and names of files need not be."""
    if os.name == "nt":
        pytest.skip("names are UTF-16 here")
    made = batch()
    odd = os.fsdecode(b"raw/\xff.png")
    Path(os.fsdecode(made["files"][0][0])).rename(odd)
    made["files"][0][0] = os.fsencode(os.path.abspath(odd))
    Worker(task[0])(made)
    assert shards.told_of(Path("shards/k.parquet")).failed == 0
