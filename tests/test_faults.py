"""Trainings that are killed at every write and at random points: resumed, they end as the unbroken one, to the bit."""

import json
import multiprocessing
import multiprocessing.connection
import os
import random
import shutil
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from fxcli.run import checkpoint

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif("forkserver" not in multiprocessing.get_all_start_methods(), reason="needs fork"),
]

SEED = 20260101
TIMES = ("seconds", "images_per_s", "data_wait_s", "compute_s", "spent_s")
HEAD = """
data: {{manifest: '{manifest}', workers: {workers}, cache: {cache}}}
hardware: {{precision: {precision}}}
"""
PHASES = """
model: {backbone: demo_tiny, init: random}
optim: {lr: 3e-3}
train: {epochs: 1, batch_size: 12, save_every_min: 1e-9}
phases:
  warm: {train: {ema: 0.9}, model: {dropout: 0.2}}
  tune: {start: best, optim: {name: sgd, lr: 1e-2}, augment: {rotate_deg: 20, mixup: 0.4, cutmix: 0.4}}
"""
FROZEN = """
model: {backbone: demo_tiny, init: random, freeze: all}
optim: {lr: 1e-2}
train: {epochs: 2, batch_size: 8, save_every_min: 1e-9}
augment: {hflip: 0.5}
"""
FOLDS = PHASES.replace("save_every_min: 1e-9", "save_every_min: 10") + "ensemble: {folds: 2}\n"
# Processes that are spawned import torch, for seconds: a phase less.
ONE_PHASE = PHASES.partition("  tune:")[0]
PRETRAIN = """
task: pretrain
model: {backbone: demo_tiny, init: random}
optim: {lr: 3e-3}
pretrain: {method: simclr}
train: {epochs: 2, batch_size: 8, save_every_min: 1e-9}
"""


@dataclass(frozen=True)
class Case:
    """A training, and the number of random points that it is killed at."""

    name: str
    body: str = PHASES
    precision: str = "fp32"
    workers: int = 0
    start_method: str = "fork"
    cache: str = "memory"
    points: int = 5


CASES = [
    Case("fp32", points=8),
    Case("bf16", precision="bf16"),
    Case("fp32-2-fork", workers=2, points=4),
    Case("bf16-2-fork", precision="bf16", workers=2, points=4),
    Case("fp32-2-spawn", body=ONE_PHASE, workers=2, start_method="spawn", points=2),
    Case("bf16-2-spawn", body=ONE_PHASE, precision="bf16", workers=2, start_method="spawn", points=2),
    Case("frozen", body=FROZEN, cache="disk", points=4),
    Case("folds", body=FOLDS, points=5),
    Case("pretrain", body=PRETRAIN, points=5),
]


@pytest.fixture(scope="module")
def forks():
    """Starts children from a process that has imported everything and computed nothing."""
    # Where the fork server looks for modules; it is started with the first child.
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(Path(__file__).parent), before]))
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["killed"])
    yield context
    if before is None:
        del os.environ["PYTHONPATH"]
    else:
        os.environ["PYTHONPATH"] = before


@pytest.fixture(scope="module")
def place(forks, prepared, tmp_path_factory):
    """Makes folders with the recipe of a case, and runs commands in them."""
    root = tmp_path_factory.mktemp("faults")

    def make(case, name):
        folder = root / case.name / name
        folder.mkdir(parents=True)
        head = HEAD.format(
            manifest=prepared / "manifest.csv", workers=case.workers, precision=case.precision, cache=case.cache
        )
        (folder / "tiny.yaml").write_text(head + case.body, encoding="utf-8")
        return Place(forks, case, folder)

    return make


class Place:
    """A folder with a recipe and the run of it."""

    asking = threading.Lock()

    def __init__(self, forks, case, folder):
        self.forks, self.case, self.folder = forks, case, folder
        self.run = folder / "runs" / "x"

    def train(self, **how):
        """Begins the run, or goes on with it as a person would, in a child; the child's exit code."""
        import killed

        begun = (self.run / "run.json").is_file()
        command = ["train", "--resume", "runs/x"] if begun else ["train", "tiny.yaml", "--out", "runs/x"]
        how |= {"out": str(self.folder / "told.json"), "start_method": self.case.start_method}
        child = self.forks.Process(target=killed.fx, args=(str(self.folder), [*command, "--quiet"]), kwargs=how)
        # A start looks after all children that ended: two threads that ask for one's exit code at once lose it.
        with self.asking:
            child.start()
        multiprocessing.connection.wait([child.sentinel], 120)
        with self.asking:
            if child.exitcode is None:
                child.kill()
                child.join()
            return child.exitcode

    def told(self):
        return json.loads((self.folder / "told.json").read_text())

    def finish(self):
        told = self.run / "run.json"
        if told.is_file() and json.loads(told.read_text())["status"] == "finished":
            return  # killed in the last moment: nothing is left to do
        code = self.train()
        assert code == 0, (self.folder / "told.log").read_text()

    def end(self):
        """Everything that the run holds but times, by file."""
        files = [file for file in self.run.rglob("*") if file.is_file() and file != self.run / "lock.json"]
        return {file.relative_to(self.run).as_posix(): _content(file) for file in files}


def _content(file):
    if file.suffix == ".safetensors":
        load = checkpoint.load_state if file.name.startswith("state") else checkpoint.load_model_file
        tensors, header = load(file)
        header = _without_times(header) | {"place": _without_times(header.get("place", {}))}
        return {name: (value.dtype, value.shape, value.numpy().tobytes()) for name, value in tensors.items()}, header
    if file.name == "run.json":
        info = json.loads(file.read_text())
        return {key: info.get(key) for key in ("status", "figures", "epoch", "monitor", "best", "best_epoch", "error")}
    if file.name == "metrics.jsonl":
        return [_without_times(json.loads(line)) for line in file.read_text().splitlines()]
    return None if file.name == "log.txt" else file.read_bytes()


def _without_times(values):
    return {key: value for key, value in values.items() if key not in (*TIMES, "created")}


@pytest.fixture(scope="module")
def unbroken(place):
    """The run of a case that nothing happened to, once."""
    known = {}

    def run(case):
        if case.name not in known:
            whole = place(case, "whole")
            whole.finish()
            known[case.name] = whole
        return known[case.name]

    return run


def killed_and_resumed(place, whole, case, plans):
    """Kills a training by each plan, lets it go on, and compares; the number of children that were killed."""
    expected = whole.end()

    def follow(numbered):
        number, plan = numbered
        one = place(case, f"{number}")
        codes = [one.train(**how) for how in plan]
        one.finish()
        found = one.end()
        assert found.keys() == expected.keys(), plan
        different = [name for name, content in expected.items() if found[name] != content]
        assert not different, plan
        shutil.rmtree(one.folder)
        return codes

    # Two at a time: half of it is waiting.
    with ThreadPoolExecutor(2) as pool:
        codes = [code for found in pool.map(follow, enumerate(plans)) for code in found]
    # A child that ended before its kill was due is no failure, but no kill, either.
    assert set(codes) <= {-signal.SIGKILL, 0}
    return codes.count(-signal.SIGKILL)


@pytest.mark.parametrize("mode", ["torn", "power"])
def test_killed_at_every_write(place, unbroken, mode, record_property):
    case = CASES[0]
    whole = unbroken(case)
    events = whole.told()["events"]
    assert {event.split()[0] for event in events} == {"open", "fsync", "rename", "mkdir", "remove"}
    plans = [[{"at": number, "mode": mode}] for number in range(len(events))]
    survived = killed_and_resumed(place, whole, Case(f"{case.name}-{mode}"), plans)
    record_property("kills", survived)
    print(f"{survived} kills at {len(events)} writes, {mode}")
    assert survived == len(events)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_killed_anywhere(place, unbroken, case):
    whole = unbroken(case)
    rng = random.Random(f"{SEED} {case.name}")
    total = whole.told()["calls"]
    plans = [[{"after_calls": rng.randrange(1, total)}] for _ in range(case.points)]
    survived = killed_and_resumed(place, whole, case, plans)
    print(f"{survived} of {case.points} kills at random calls of {total}, {case.name}")
    # With decoding processes, how many calls the parent makes depends on how long it waits.
    assert survived >= (case.points if case.workers == 0 else max(1, case.points - 2))


@pytest.mark.parametrize("case", CASES[-3:], ids=lambda case: case.name)
def test_killed_at_some_writes(place, unbroken, case):
    """Of features on disk, folds and pretraining."""
    whole = unbroken(case)
    events = whole.told()["events"]
    rng = random.Random(f"{SEED} writes {case.name}")
    chosen = sorted(rng.sample(range(len(events)), 20))
    plans = [[{"at": number, "mode": ("torn", "power")[number % 2]}] for number in chosen]
    survived = killed_and_resumed(place, whole, Case(f"{case.name}-writes", case.body, cache=case.cache), plans)
    print(f"{survived} kills at {len(chosen)} of {len(events)} writes, {case.name}")
    assert survived == len(chosen)


def test_killed_again_and_again(place, unbroken):
    case = CASES[0]
    whole = unbroken(case)
    rng = random.Random(f"{SEED} again")
    total = whole.told()["calls"]
    plans = [[{"after_calls": rng.randrange(total // 4, total // 2)} for _ in range(4)] for _ in range(3)]
    assert killed_and_resumed(place, whole, Case("again"), plans) >= 9
