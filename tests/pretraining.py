"""What tests of pretraining share, besides the fixtures in pretrain/conftest."""

from __future__ import annotations

import json
import signal

import torch

from fx_simclr import byol, simclr
from fxcli.model.hardware import Compute
from fxcli.run import checkpoint

CPU = Compute(torch.device("cpu"))


BYOL_OPTIONS = "options: {hidden_dim: 16, momentum: 0.5}"


RECIPE = """
task: pretrain
data: {{manifest: '{manifest}', image_size_px: 32, workers: 0}}
model: {{backbone: demo_tiny, init: random}}
pretrain: {{method: {method}, {options}}}
optim: {{lr: 1e-2}}
schedule: {{name: cosine}}
train: {{epochs: 2, batch_size: 8}}
"""


CLASSIFY = """
data: {{manifest: '{manifest}', image_size_px: 32, workers: 0}}
model: {{backbone: 'simclr:demo_tiny', init: simclr}}
train: {{epochs: 1, batch_size: 8}}
"""


def stop_at(monkeypatch, method: str, step: int) -> None:
    """Ctrl-C after so many optimizer steps."""
    module = {"simclr": simclr.SimCLR, "byol": byol.BYOL}[method]
    real, done = module.after_step, []

    def after_step(self, progress):
        real(self, progress)
        done.append(progress)
        if len(done) == step:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(module, "after_step", after_step)


def tensors(run):
    return checkpoint.load_model_file(run.model_file)[0]


def lines(run):
    found = [json.loads(line) for line in run.metrics_file.read_text(encoding="utf-8").splitlines()]
    return [
        {key: value for key, value in line.items() if key not in ("seconds", "data_wait_s", "compute_s")}
        for line in found
    ]


def epochs(run):
    """Lines without that of the start."""
    return [line for line in lines(run) if line["epoch"]]


def assert_same(run, other):
    one, two = tensors(run), tensors(other)
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert lines(run) == lines(other)
