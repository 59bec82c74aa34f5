"""What is not fx's own in training: tried beforehand, and told as its plugin's where it goes wrong."""

from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from fxcli import Stage
from fxcli.cli import app
from fxcli.data.manifest import read_manifest
from fxcli.errors import PluginError, RecipeError, RunError
from fxcli.model.detector import Detector
from fxcli.model.hardware import Compute
from fxcli.training import job, trial
from fxcli.zoo.plugins import load_zoo

CPU = Compute(torch.device("cpu"))


NOT_THE_PLUGINS = pytest.mark.parametrize(
    "error",
    [
        RunError("of fx"),
        torch.OutOfMemoryError("all of it"),
        MemoryError(),
        RuntimeError("[enforce fail at alloc_cpu.cpp:1] DefaultCPUAllocator: can't allocate memory"),
        RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. "),
        KeyboardInterrupt(),
    ],
)


@NOT_THE_PLUGINS
def test_what_is_not_the_plugins_passes_through(error):
    with pytest.raises(type(error)) as caught, trial.of_plugin("pretrainer", "simclr", "loss"):
        raise error
    assert caught.value is error


@NOT_THE_PLUGINS
def test_so_it_does_where_a_detector_is_validated(error):
    network = nn.Identity()
    network.register_forward_pre_hook(Mock(side_effect=error))
    with pytest.raises(type(error)) as caught:
        Detector(network, network, "faster_rcnn", 1)(torch.zeros(1, 3, 8, 8))
    assert caught.value is error


def test_what_plugins_print_in_training_goes_to_stderr(capsys):
    with trial.of_plugin("pretrainer", "simclr", "loss"):
        print("loud")
    assert tuple(capsys.readouterr()) == ("", "loud\n")


@pytest.mark.parametrize(
    ("losses", "message"),
    [
        (lambda *_: 1 / 0, "its loss failed: ZeroDivisionError"),
        (lambda *_: [torch.tensor(1.0)], "its loss is list, not a tensor of one number"),
        (lambda *_: {}, "its loss is {}, not a tensor of one number"),
        (lambda *_: {"loss_a": torch.ones(2)}, "its loss is {'loss_a': 'of shape [2]'}, not"),
        (lambda *_: {"loss_a": torch.tensor(1.0)}, "its loss has no gradient"),
    ],
)
def test_losses_of_a_detector_of_a_broken_plugin(tiny_detect, monkeypatch, losses, message):
    monkeypatch.setattr("fxcli.model.detector.Detector.losses", losses)
    tiny_detect()
    done = CliRunner().invoke(app, ["train", "boxes.yaml", "--quiet"])
    assert done.exit_code == 5, done.output
    assert f"detector faster_rcnn: {message}" in done.stderr
    assert "it is of the plugin fx" in done.stderr


def said(boxes=(2, 4), labels=(1, 1), scores=(2,)):
    return {"boxes": torch.ones(boxes), "labels": torch.tensor(labels), "scores": torch.ones(scores)}


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        (lambda *_: 1 / 0, "seeing pictures failed: ZeroDivisionError"),
        (lambda *_: None, "of 1 pictures it gives NoneType, not as many answers"),
        (lambda *_: [said(), said()], "of 1 pictures it gives 2 answers, not as many answers"),
        (lambda *_: [None], "boxes, labels and scores of a picture are ['NoneType', 'NoneType', 'NoneType'], not"),
        (lambda *_: [{**said(), "scores": [1.0]}], "boxes, labels and scores of a picture are [[2, 4], [2], 'list']"),
        (lambda *_: [said(boxes=(2, 5))], "boxes, labels and scores of a picture are [[2, 5], [2], [2]], not [n, 4]"),
        (
            lambda *_: [said(boxes=(0,), labels=(), scores=(0,))],
            "boxes, labels and scores of a picture are [[0], [0], [0]], not [n, 4]",
        ),
        (lambda *_: [said(scores=(1,))], "boxes, labels and scores of a picture are [[2, 4], [2], [1]], not [n, 4]"),
        (lambda *_: [said(labels=(1, 99))], "labels of boxes are from 1 to 99, and there are 1 classes"),
        (
            lambda *_: [said(boxes=(), labels=1, scores=())],
            "boxes, labels and scores of a picture are [[], [], []], not",
        ),
    ],
)
def test_answers_of_a_detector_of_a_broken_plugin_are_told_before_the_first_epoch(
    tiny_detect, monkeypatch, answers, message
):
    monkeypatch.setattr("torchvision.models.detection.generalized_rcnn.GeneralizedRCNN.forward", answers)
    monkeypatch.setattr("fxcli.training.loop.train", lambda *_, **__: pytest.fail("it is trained"))
    tiny_detect()
    done = CliRunner().invoke(app, ["train", "boxes.yaml", "--quiet"])
    assert done.exit_code == 5, done.output
    assert f"detector faster_rcnn: {message}" in done.stderr
    assert "it is of the plugin fx" in done.stderr


def test_a_detector_whose_file_could_not_be_read_is_told_before_the_first_epoch(tiny_detect, monkeypatch):
    def forward(network, images):
        network.register_buffer("anchors", torch.zeros(3))
        return [said()] * len(images)

    monkeypatch.setattr("torchvision.models.detection.generalized_rcnn.GeneralizedRCNN.forward", forward)
    monkeypatch.setattr("fxcli.training.loop.train", lambda *_, **__: pytest.fail("it is trained"))
    tiny_detect()
    done = CliRunner().invoke(app, ["train", "boxes.yaml", "--quiet"])
    assert done.exit_code == 5, done.output
    what = "seeing pictures changes what its state_dict holds: network.anchors"
    assert f"detector faster_rcnn: {what}" in done.stderr


class Answering(nn.Module):
    """A backbone of one stage that answers as it is told to."""

    def __init__(self, answer):
        super().__init__()
        self.answer, self.inner = answer, nn.Conv2d(1, 1, 1)

    def forward(self, images):
        return self.answer(self, images)


def cells(module, images):
    return module.inner.weight * images.new_ones(len(images), 32, 4, 4)


def only_in_eval(module, images):
    if module.training:
        raise TypeError("not in training")
    return cells(module, images)


def without_gradient(module, images):
    return cells(module, images).detach()


def answering(zoo, answer):
    stage = Stage(name="body", stride=16, channels=32, modules=("inner",))
    return replace(zoo.backbone("demo_tiny"), build=lambda args: Answering(answer), stages=(stage,))


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda module, images: images.gone, "seeing a picture of 64 px failed: AttributeError"),
        (lambda module, images: images, "of one picture it gives [1, 3, 64, 64], not [1, 32, h, w]"),
        (lambda module, images: (images,), "of one picture it gives tuple, not"),
        (only_in_eval, "learning from pictures of 64 px failed: TypeError: not in training"),
        (without_gradient, "what it gives in training has no gradient"),
    ],
)
def test_a_backbone_that_does_not_do_what_its_spec_says_is_told_as_broken(
    tiny_recipe, demo_zoo, monkeypatch, answer, message
):
    tiny_recipe("data.image_size_px=64")
    spec = answering(demo_zoo, answer)
    monkeypatch.setattr(type(demo_zoo), "backbone", lambda zoo, name: spec)
    done = CliRunner().invoke(app, ["train", "tiny.yaml", "--quiet"])
    assert done.exit_code == 5, done.output
    assert f"backbone demo_tiny: {message}" in done.stderr
    assert "it is of the plugin demo" in done.stderr


@pytest.mark.parametrize("training", [False, True])
def test_a_backbone_is_tried_in_the_precision_that_it_is_trained_in(tiny_recipe, demo_zoo, training):
    def answer(module, images):
        seen = module.inner(images[:, :1])
        if module.training == training and seen.dtype != torch.float32:
            raise TypeError(f"not in {seen.dtype}")
        return cells(module, images)

    recipe, spec = tiny_recipe("data.image_size_px=64"), answering(demo_zoo, answer)
    trial.backbone(recipe, spec, CPU)
    with pytest.raises(PluginError, match=r"not in torch.bfloat16"):
        trial.backbone(recipe, spec, replace(CPU, precision="bf16"))


def test_so_it_is_under_a_detector(tiny_detect, monkeypatch):
    def fail(module, images):
        raise TypeError("not in training")

    real = trial.models.build_backbone

    def build(*args, **kwargs):
        module = real(*args, **kwargs)
        module.register_forward_pre_hook(lambda its, args: fail(its, args) if its.training else None)
        return module

    monkeypatch.setattr(trial.models, "build_backbone", build)
    tiny_detect()
    done = CliRunner().invoke(app, ["train", "boxes.yaml", "--quiet"])
    assert done.exit_code == 5, done.output
    assert "learning from pictures of 96 px failed: TypeError: not in training" in done.stderr


@pytest.mark.parametrize("answer", [only_in_eval, without_gradient])
@pytest.mark.parametrize("frozen", ["all", "until:body"])
def test_what_no_phase_trains_need_not_learn(tiny_recipe, demo_zoo, monkeypatch, answer, frozen):
    recipe = tiny_recipe(phases=f"phases: {{a: {{model: {{freeze: '{frozen}'}}}}, b: {{model: {{freeze: all}}}}}}")
    trial.backbone(recipe, answering(demo_zoo, answer), CPU)
    recipe = tiny_recipe(phases="phases: {a: {model: {freeze: all}}, b: {}}")
    with pytest.raises(PluginError):
        trial.backbone(recipe, answering(demo_zoo, answer), CPU)


def test_a_backbone_is_tried_as_each_phase_trains_it(tiny_recipe, demo_zoo):
    seen = []

    def answer(module, images):
        seen.append((module.training, module.inner.training, module.inner.weight.requires_grad, len(images)))
        return cells(module, images) + module.last.weight

    class Two(Answering):
        def __init__(self, answer):
            super().__init__(answer)
            self.last = nn.Conv2d(1, 1, 1)
            # As a plugin may leave it; freezing decides.
            self.requires_grad_(False)

    modules = {"stem": "inner", "body": "last"}
    stages = tuple(Stage(name=name, stride=16, channels=32, modules=(its,)) for name, its in modules.items())
    spec = replace(demo_zoo.backbone("demo_tiny"), build=lambda args: Two(answer), stages=stages)
    phases = "phases: {a: {model: {freeze: all}}, b: {model: {freeze: 'until:stem'}}, c: {}, d: {}}"
    trial.backbone(tiny_recipe(phases=phases), spec, CPU)
    assert seen == [(False, False, False, 1), (True, False, False, 2), (True, True, True, 2)]


def test_the_trial_changes_nothing(tiny_recipe, demo_zoo, monkeypatch):
    recipe, real = tiny_recipe(), demo_zoo.backbone("demo_tiny")
    spec = replace(real, build=lambda args: Sequenced(real.build(args)))
    monkeypatch.setattr(type(demo_zoo), "backbone", lambda zoo, name: spec)
    manifest = read_manifest(Path(recipe.data.manifest))
    drawn = torch.random.get_rng_state()
    (module,) = job.build(recipe, manifest, CPU, demo_zoo, {}).model.members
    assert torch.equal(torch.random.get_rng_state(), drawn)
    assert module.training
    assert all(weight.grad is None for weight in module.parameters())
    monkeypatch.setattr(trial, "backbone", lambda *_: None)
    (untried,) = job.build(recipe, manifest, CPU, demo_zoo, {}).model.members
    assert all(torch.equal(value, untried.state_dict()[name]) for name, value in module.state_dict().items())


class Sequenced(nn.Module):
    """A backbone that draws random numbers in training."""

    def __init__(self, module):
        super().__init__()
        self.__dict__["_modules"].update(module._modules)
        self.inner_forward = module.forward

    def forward(self, images):
        return nn.functional.dropout(self.inner_forward(images), 0.5, self.training)


@pytest.mark.parametrize("gone", [{"modules": ("stem", "gone")}, {"modules": ("stem",), "parameters": ("gone",)}])
@pytest.mark.parametrize("task", ["classify", "detect"])
def test_a_stage_that_names_what_is_not_there(tiny_recipe, tiny_detect, demo_zoo, monkeypatch, gone, task):
    tiny_recipe(), tiny_detect()
    spec = demo_zoo.backbone("demo_tiny")
    first = Stage(name="stem", stride=spec.stages[0].stride, channels=spec.stages[0].channels, **gone)
    broken = replace(spec, stages=(first, *spec.stages[1:]))
    monkeypatch.setattr(type(demo_zoo), "backbone", lambda zoo, name: broken)
    done = CliRunner().invoke(app, ["train", "tiny.yaml" if task == "classify" else "boxes.yaml", "--quiet"])
    assert done.exit_code == 5, done.output
    assert "backbone demo_tiny: its stage stem names what is not there: gone" in done.stderr
    assert "it is of the plugin demo" in done.stderr


@pytest.mark.parametrize("freeze", ["none", "all"])
def test_a_parameter_in_no_stage_is_not_trained_while_all_is_said_to_be_frozen(tiny_recipe, demo_zoo, freeze):
    recipe, spec = tiny_recipe(f"model.freeze={freeze}"), demo_zoo.backbone("demo_tiny")
    with pytest.raises(PluginError, match=r"3 parameters are in no stage: stem.0.weight, stem.1.weight, stem.1.bias"):
        trial.backbone(recipe, replace(spec, stages=spec.stages[1:]), CPU)


class Remembering(Answering):
    """A backbone that makes a buffer when it sees its first picture, or keeps what is no tensor."""

    def get_extra_state(self):
        return {"any": "thing"}

    def forward(self, images):
        self.register_buffer("seen", torch.ones(len(images)))
        return super().forward(images)


@pytest.mark.parametrize(
    ("has_extra", "message"),
    [(True, "_extra_state in its state_dict is no tensor"), (False, "changes what its state_dict holds: seen")],
)
@pytest.mark.parametrize("freeze", ["none", "all"])
def test_a_backbone_whose_model_file_could_not_be_written_or_read(
    tiny_recipe, demo_zoo, monkeypatch, has_extra, message, freeze
):
    if not has_extra:
        monkeypatch.delattr(Remembering, "get_extra_state")
    spec = replace(answering(demo_zoo, cells), build=lambda args: Remembering(cells))
    with pytest.raises(PluginError, match=message):
        trial.backbone(tiny_recipe(f"model.freeze={freeze}"), spec, CPU)


# At 32 px a last stage of stride 32 has one cell; 24 pictures learn.
ALONE = ("model.backbone=resnet18", "data.image_size_px=32", "train.batch_size=23")
STAGES = "phases: {a: {model: {freeze: 'until:layer3'}}, b: {model: {freeze: all}}}"


@pytest.mark.parametrize(
    ("sets", "phases", "told"),
    [
        ([], "", "phases.main.train.batch_size: 24 pictures in batches of 23 leave a last one of a single picture"),
        (["train.batch_size=1"], "", "24 pictures in batches of 1"),
        ([], STAGES, "phases.a.train.batch_size: 24 pictures"),
        (["data.train_frac=0.5", "train.batch_size=11"], "", "12 pictures in batches of 11"),
        (["ensemble.folds=5", "train.batch_size=27", "train.monitor=none"], "", "28 pictures in batches of 27"),
        (["train.batch_size=22"], "", None),
        (["model.bn=eval"], "", None),
        (["model.freeze=all"], "", None),
        (["data.image_size_px=64"], "", None),
        (["model.backbone=demo_tiny"], "", None),
    ],
)
def test_a_last_batch_of_one_that_a_backbone_cannot_learn_from_is_told_at_once(tiny_recipe, sets, phases, told):
    recipe = tiny_recipe(*ALONE, *sets, phases=phases)
    manifest = read_manifest(Path(recipe.data.manifest))
    if told is None:
        job.check(recipe, manifest)
        return
    with pytest.raises(RecipeError, match="another train") as error:
        job.check(recipe, manifest)
    assert told in error.value.problems[0]
    assert error.value.hint == "another train.batch_size, or model.bn=eval"
    with pytest.raises(RecipeError):
        job.create(recipe, manifest, None)
    assert not Path("runs").exists()


@pytest.mark.parametrize(("batch_size", "told"), [(21, True), (2, True), (8, False), (20, False)])
def test_a_single_picture_for_one_of_two_processes_is_told_at_once(tiny_recipe, monkeypatch, batch_size, told):
    """24 pictures: a last batch of three, which is two for one process and one for the other, and so on."""
    monkeypatch.setattr(trial, "processes", lambda: 2)
    recipe = tiny_recipe(*ALONE, f"train.batch_size={batch_size}")
    manifest = read_manifest(Path(recipe.data.manifest))
    if not told:
        job.check(recipe, manifest)
        return
    with pytest.raises(RecipeError) as error:
        job.check(recipe, manifest)
    assert f"of 24 pictures in batches of {batch_size} one of 2 processes gets a single one" in str(error.value)


def test_it_would_fail_after_an_epoch(tiny_recipe, monkeypatch):
    """Were it not told: what is tried is what happens."""
    recipe = tiny_recipe(*ALONE, "train.epochs=1")
    manifest = read_manifest(Path(recipe.data.manifest))
    monkeypatch.setattr(trial, "last_batch", lambda *_: None)
    run = job.create(recipe, manifest, None)
    with pytest.raises(ValueError, match="Expected more than 1 value per channel"):
        job.execute(run, recipe, manifest, resume=False)


def test_so_it_is_of_a_detector(tiny_detect, monkeypatch):
    """12 pictures with a box and as many without, over a backbone that averages before a norm."""

    def build(spec, *_):
        layers = [nn.AdaptiveAvgPool2d(1), nn.BatchNorm2d(3)]
        module = nn.ModuleDict({name: nn.Identity() for stage in spec.stages for name in stage.modules})
        module.forward = nn.Sequential(*layers).forward
        return module

    monkeypatch.setattr(trial.models, "build_backbone", build)
    for tried in ("backbone", "detector"):
        monkeypatch.setattr(trial, tried, lambda *_: None)
    recipe = tiny_detect("train.batch_size=23")
    with pytest.raises(RecipeError, match="24 pictures in batches of 23"):
        job.build(recipe, read_manifest(Path(recipe.data.manifest)), Compute(torch.device("cpu")), load_zoo(), {})
