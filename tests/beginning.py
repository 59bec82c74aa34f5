"""Trainings without a command, and what they wrote; for test_training_classify, _resume and _features."""

import json
from pathlib import Path

import torch

from fxcli.data.manifest import read_manifest
from fxcli.model.hardware import Compute
from fxcli.run import checkpoint, directory
from fxcli.training import classify

CPU = Compute(torch.device("cpu"))
TIMES = ("seconds", "images_per_s", "data_wait_s", "compute_s")
INFO = {"task": "classify", "backbone": "demo_tiny", "model": {"backbone": "demo_tiny", "init": "random"}}


def beginning(zoo):
    """Makes a training and its run; with `run`, a training that can resume it."""

    def make(recipe, run=None, workers=0, compute=CPU):
        manifest = read_manifest(Path(recipe.data.manifest))
        training = classify.build(recipe, manifest, compute, zoo, dict(INFO))
        training.workers = workers
        return training, run or directory.create("tiny", {"created": "now"}, out=None)

    return make


def tensors_of(run):
    return checkpoint.load_model_file(run.model_file)[0]


def assert_same(run, other):
    one, two = tensors_of(run), tensors_of(other)
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert figures(run) == figures(other)


def figures(run):
    lines = [json.loads(line) for line in run.metrics_file.read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in TIMES} for line in lines]


PHASES = """
phases:
  warm: {train: {epochs: 2, ema: 0.9}, model: {dropout: 0.2}, schedule: {name: onecycle}}
  tune: {start: last, optim: {name: sgd, lr: 1e-2}, augment: {rotate_deg: 20, mixup: 0.4, cutmix: 0.4}}
"""
