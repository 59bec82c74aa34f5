import copy
import functools
import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from pydantic import BaseModel, ConfigDict

from fxcli.data.preprocess import Clean, Preprocessing
from fxcli.errors import (
    MissingDependency,
    ModelFileError,
    PluginError,
    RecipeError,
    RunError,
    UnknownName,
    memory_used_up,
)
from fxcli.inference.engines import TorchEngine
from fxcli.inference.export import Whole
from fxcli.inference.exported import outputs_of
from fxcli.model import classifier as models
from fxcli.model.classifier import FeatureStatistics, TrainedModel
from fxcli.model.hardware import Compute
from fxcli.model.init import initialise
from fxcli.recipe.schema import Model
from fxcli.run import checkpoint, directory
from fxcli.zoo.plugins import Plugin, Zoo

SETTINGS = Model(backbone="demo_tiny", init="random")
PREPROCESSING = Preprocessing(Clean(64), 64, "letterbox", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


@pytest.fixture
def model(demo_zoo):
    spec = demo_zoo.backbone("demo_tiny")
    info = {"task": "classify", "backbone": "demo_tiny", "model": SETTINGS.model_dump(mode="json"), "name": "x"}
    return TrainedModel((models.build(spec, SETTINGS, 64, 3, seed=1),), spec, ("a", "b", "c"), PREPROCESSING, info)


def test_forward_is_pool_dropout_head(model):
    network = model.network.eval()
    images = torch.rand(2, 3, 64, 64)
    features = network.backbone(images)
    expected = features.mean(dim=(2, 3)) @ network.head.weight.T + network.head.bias
    assert torch.allclose(network(images), expected, atol=1e-6)


def test_build_is_a_function_of_the_seed_and_leaves_the_generator_alone(demo_zoo):
    spec = demo_zoo.backbone("demo_tiny")
    state = torch.get_rng_state()
    one, same, other = (models.build(spec, SETTINGS, 64, 3, seed=seed).state_dict() for seed in (1, 1, 2))
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["head.weight"], other["head.weight"])


def test_what_a_backbone_refuses_is_a_recipe_error(demo_zoo):
    settings = Model(backbone="demo_tiny", init="random", drop_path=0.1)
    with pytest.raises(RecipeError, match="no stochastic depth"):
        models.build(demo_zoo.backbone("demo_tiny"), settings, 64, 3, seed=0)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda args: {}["gone"], "backbone demo_tiny: build failed: KeyError: 'gone'"),
        (lambda args: torch.empty(2).view(3), "backbone demo_tiny: build failed: RuntimeError: shape"),
        (lambda args: torch.relu, "backbone demo_tiny: build returned builtin_function_or_method, not a torch module"),
        (lambda args: torch.nn.LazyLinear(2), "backbone demo_tiny: weight has no shape yet: build returned a lazy"),
        (lambda args: torch.nn.LazyBatchNorm2d(affine=False), "backbone demo_tiny: running_mean has no shape yet"),
    ],
)
def test_a_plugin_that_cannot_build_is_told_as_broken(demo_zoo, build, message):
    spec = replace(demo_zoo.backbone("demo_tiny"), build=build)
    with pytest.raises(PluginError) as caught:
        models.build(spec, SETTINGS, 64, 3, seed=0)
    assert caught.value.what.startswith(message)
    assert caught.value.hint.startswith("it is of the plugin demo (fx-demo 0.1)")


@pytest.mark.parametrize("wrapped", [lambda module: module, copy.copy], ids=["itself", "within another"])
def test_a_plugin_that_gives_one_module_to_all_who_ask_is_told_as_broken(demo_zoo, wrapped):
    """The folds of a training would go on from each other's weights, which have seen what they hold out."""
    spec = demo_zoo.backbone("demo_tiny")
    cached = functools.cache(spec.build)
    spec = replace(spec, build=lambda args: wrapped(cached(args)))
    first = models.build(spec, SETTINGS, 64, 3, seed=0)
    with pytest.raises(PluginError, match="backbone demo_tiny: build returned the same module again"):
        models.build(spec, SETTINGS, 64, 3, seed=1)
    del first


def test_memory_that_is_used_up_is_not_the_plugins(demo_zoo):
    spec = replace(demo_zoo.backbone("demo_tiny"), build=lambda args: torch.nn.Linear(2**40, 2**20))
    with pytest.raises(RuntimeError) as caught:
        models.build(spec, SETTINGS, 64, 3, seed=0)
    assert memory_used_up(caught.value) == "computer"


def test_an_error_of_fx_in_a_plugin_is_left_as_it_is(demo_zoo):
    def build(args):
        raise MissingDependency("timm", extra="timm", purpose="demo_tiny")

    spec = replace(demo_zoo.backbone("demo_tiny"), build=build)
    with pytest.raises(MissingDependency):
        models.build(spec, SETTINGS.model_copy(update={"backbone": "never_registered"}), 64, 3, seed=0)
    spec = replace(spec, build=lambda args: None)
    with pytest.raises(PluginError, match="backbone never_registered: build returned NoneType") as caught:
        models.build(spec, SETTINGS.model_copy(update={"backbone": "never_registered"}), 64, 3, seed=0)
    assert caught.value.hint is None


def test_file_copied_alone_gives_the_same_bits(model, demo_zoo, tmp_path):
    model.save(tmp_path / "model.safetensors")
    elsewhere = tmp_path / "elsewhere" / "renamed.safetensors"
    elsewhere.parent.mkdir()
    shutil.copy(tmp_path / "model.safetensors", elsewhere)
    loaded = models.load(elsewhere, demo_zoo)
    images = torch.rand(2, 3, 64, 64)
    assert torch.equal(loaded.network(images), model.network.eval()(images))
    assert (loaded.classes, loaded.preprocessing) == (model.classes, model.preprocessing)
    assert loaded.info["name"] == "x"
    assert "not a medical device" in loaded.info["intended_use"]


def test_init_from_a_file_takes_the_backbone_and_not_the_head(model, demo_zoo, tmp_path):
    model.save(tmp_path / "model.safetensors")
    settings = Model(backbone="demo_tiny", init=str(tmp_path / "model.safetensors"))
    fresh = models.build(model.spec, settings, 64, 5, seed=9)
    head = fresh.head.weight.clone()
    seen = initialise(model.spec, fresh.backbone, settings.init)
    assert torch.equal(fresh.backbone.stem[0].weight, model.network.backbone.stem[0].weight)
    assert torch.equal(fresh.head.weight, head)
    assert seen.mean == PREPROCESSING.mean


def test_init_from_another_backbone_is_refused(model, demo_zoo, tmp_path):
    model.info["backbone"] = "other"
    model.save(tmp_path / "model.safetensors")
    with pytest.raises(RecipeError, match="holds other, the recipe wants demo_tiny"):
        initialise(model.spec, model.network.backbone, str(tmp_path / "model.safetensors"))


@pytest.mark.parametrize(
    ("change", "match"),
    [({"preprocessing": {"mean": 1}}, "header is damaged"), ({}, "do not fit demo_tiny: unexpected extra")],
)
def test_init_from_a_file_that_cannot_be_used(model, demo_zoo, tmp_path, change, match):
    tensors = model.network.state_dict() | ({} if change else {"backbone.extra": torch.zeros(1)})
    header = {**model.info, "preprocessing": PREPROCESSING.to_mapping(), **change}
    checkpoint.save_model_file(tmp_path / "m.safetensors", tensors, header)
    with pytest.raises(ModelFileError, match=match):
        initialise(model.spec, model.network.backbone, str(tmp_path / "m.safetensors"))


def test_init_from_a_run_that_is_not_there_names_weights_and_runs(model, demo_zoo):
    run = directory.create("mine", {}, out=None)
    with pytest.raises(RunError, match="no model yet"):
        initialise(model.spec, model.network.backbone, str(run.path))
    model.save(run.model_file)
    with pytest.raises(UnknownName) as error:
        initialise(model.spec, model.network.backbone, "runs/gone")
    assert "unknown weights 'runs/gone'" in str(error.value)
    assert "known: random" in str(error.value)
    assert str(run.path) in str(error.value)
    initialise(model.spec, model.network.backbone, run.path.name)


class Options(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)
    widths: tuple[int, int] = (1, 1)


def test_options_are_read_as_yaml_and_json_have_them(demo_zoo):
    seen = []
    spec = demo_zoo.backbone("demo_tiny")
    plain = spec.build
    spec = replace(
        spec, options=Options, build=lambda args: seen.append(args.options) or plain(replace(args, options=None))
    )
    models.build(spec, Model(backbone="demo_tiny", init="random", options={"widths": [2, 3]}), 64, 3, seed=0)
    assert seen == [Options(widths=(2, 3))]
    with pytest.raises(RecipeError, match=r"model\.options: widths\.1: Input should be a valid integer"):
        models.build(spec, Model(backbone="demo_tiny", init="random", options={"widths": [2, "x"]}), 64, 3, seed=0)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"classes": []}, "header is damaged: classes"),
        ({"classes": None}, "header is damaged: classes"),
        ({"classes": "abc"}, "header is damaged: classes"),
        ({"classes": ["a", "b", "b"]}, "header is damaged: classes"),
        ({"classes": ["a", "b", "-c"]}, "header is damaged: classes"),
        ({"classes": ["a", "b", "<c>"]}, "header is damaged: classes"),
        ({"classes": ["a", "b", "=1+1"]}, "header is damaged: classes"),
        ({"task": "segment"}, "not the file of a classifier"),
        ({"task": "pretrain", "classes": None}, r"holds a pretrained backbone \(demo_tiny\), not a classifier"),
        ({"model": {"backbone": "demo_tiny", "options": {"gone": 1}}}, "no longer as it was: model.options: gone"),
        ({"preprocessing": {"mean": 1}}, "header is damaged"),
        ({"model": {"backbone": "demo_tiny", "nonsense": 1}}, "header is damaged"),
        ({"model": {"backbone": "gone"}, "plugin": {"distribution": "fx-gone", "version": "3"}}, "backbone gone"),
        ({"classes": ["a", "b"]}, "do not fit"),
    ],
)
def test_headers_that_cannot_be_used(model, demo_zoo, tmp_path, change, match):
    file = tmp_path / "model.safetensors"
    header = {**model.info, "classes": ["a", "b", "c"], "preprocessing": PREPROCESSING.to_mapping(), **change}
    checkpoint.save_model_file(file, model.network.state_dict(), json.loads(json.dumps(header)))
    with pytest.raises(ModelFileError, match=match):
        models.load(file, demo_zoo)


def test_a_pretrained_backbone_says_how_it_is_used(model, demo_zoo, tmp_path):
    file = tmp_path / "model.safetensors"
    checkpoint.save_model_file(file, model.network.state_dict(), {"task": "pretrain", "backbone": "demo_tiny"})
    with pytest.raises(ModelFileError) as error:
        models.load(file, demo_zoo)
    assert f"fx train RECIPE --set model.backbone=demo_tiny --set model.init={file}" in error.value.hint
    assert f"fx predict FOLDER --model {file} --features DIR" in error.value.hint


def test_a_pretrained_backbone_is_a_classifier_of_no_classes_where_that_will_do(model, demo_zoo, tmp_path):
    file = tmp_path / "model.safetensors"
    header = {**model.info, "task": "pretrain", "preprocessing": PREPROCESSING.to_mapping()}
    state = {name: value for name, value in model.network.state_dict().items() if name.startswith("backbone.")}
    checkpoint.save_model_file(file, state, json.loads(json.dumps(header)))
    loaded = models.load(file, demo_zoo, headless=True)
    assert loaded.classes == ()
    images = torch.rand(2, 3, 64, 64)
    expected, found = (each.network.eval().outputs(each.backbone(images)) for each in (model, loaded))
    assert torch.equal(found.features, expected.features)
    assert (found.logits.shape, found.maps.shape) == ((2, 0), (2, 0, *expected.maps.shape[2:]))
    checkpoint.save_model_file(file, state | {"head.weight": torch.zeros(3, 32)}, json.loads(json.dumps(header)))
    assert models.load(file, demo_zoo, headless=True).classes == ()
    del state["backbone.stem.0.weight"]
    checkpoint.save_model_file(file, state, json.loads(json.dumps(header)))
    with pytest.raises(ModelFileError, match="do not fit"):
        models.load(file, demo_zoo, headless=True)


def test_a_classifier_keeps_its_head_where_none_is_needed(model, demo_zoo, tmp_path):
    model.save(tmp_path / "model.safetensors")
    assert models.load(tmp_path / "model.safetensors", demo_zoo, headless=True).classes == model.classes


def test_a_backbone_that_is_not_there_is_told_with_the_reason_of_the_zoo(model, tmp_path):
    file, zoo = tmp_path / "model.safetensors", Zoo()
    model.info["plugin"] = {"name": "demo", "distribution": "fx-demo", "version": "0.1"}
    model.save(file)
    with pytest.raises(ModelFileError) as error:
        models.load(file, zoo)
    assert error.value.hint == "install the plugin fx-demo 0.1"
    reason = "blocked by FX_DISABLE_PLUGINS"
    zoo.plugins.append(Plugin(name="demo", distribution="fx-demo", version="0.1", status="blocked", reason=reason))
    with pytest.raises(ModelFileError) as error:
        models.load(file, zoo)
    assert f"not loaded: demo (fx-demo 0.1): {reason}" in error.value.what
    assert "install" not in str(error.value)


def test_a_backbone_that_two_plugins_register_is_told(model, tmp_path):
    file, zoo = tmp_path / "model.safetensors", Zoo()
    zoo._claims[type(model.spec)]["demo_tiny"] = {"one": model.spec, "two": model.spec}
    model.save(file)
    with pytest.raises(ModelFileError, match="'demo_tiny' is registered by 2 plugins"):
        models.load(file, zoo)


@pytest.fixture
def ensemble(model):
    others = [models.build(model.spec, SETTINGS, 64, 3, seed=seed).eval() for seed in (2, 3)]
    members = (model.network.eval(), *others)
    for member in members:
        member.statistics = FeatureStatistics(torch.rand(32), torch.rand(32, 4), torch.tensor(2.0))
    info = {**model.info, "members": [{"seed": seed} for seed in range(3)]}
    return TrainedModel(members, model.spec, model.classes, model.preprocessing, info)


def test_an_ensemble_is_one_file_with_its_statistics(ensemble, demo_zoo, tmp_path):
    ensemble.save(tmp_path / "e.safetensors")
    loaded = models.load(tmp_path / "e.safetensors", demo_zoo)
    assert len(loaded.members) == 3
    images = torch.rand(2, 3, 64, 64)
    for before, after in zip(ensemble.members, loaded.members, strict=True):
        expected, found = before.outputs(before.backbone(images)), after.outputs(after.backbone(images))
        assert all(torch.equal(one, other) for one, other in zip(expected, found, strict=True))


def test_init_from_an_ensemble_is_refused(ensemble, tmp_path):
    ensemble.save(tmp_path / "e.safetensors")
    with pytest.raises(RecipeError, match=r"holds several networks[\s\S]*folds/0"):
        initialise(ensemble.spec, ensemble.network.backbone, str(tmp_path / "e.safetensors"))


def test_engine_and_export_say_the_mean_of_the_members(ensemble):
    images = np.random.default_rng(0).integers(0, 256, (2, 1, 64, 64)).astype(np.uint8)
    found = TorchEngine(ensemble.members, PREPROCESSING, Compute(torch.device("cpu"))).run(images)
    each = [
        TorchEngine((member,), PREPROCESSING, Compute(torch.device("cpu"))).run(images) for member in ensemble.members
    ]
    assert np.array_equal(found.logits, np.concatenate([one.logits for one in each], axis=1))
    assert np.array_equal(found.features, np.concatenate([one.features for one in each], axis=1))
    assert found.maps == pytest.approx(np.mean([one.maps for one in each], axis=0), abs=1e-6)
    assert found.distance == pytest.approx(np.mean([one.distance for one in each], axis=0), abs=1e-6)
    with torch.no_grad():
        logits, maps, members, distance = Whole(ensemble.members, PREPROCESSING)(torch.from_numpy(images))
    assert logits.numpy() == pytest.approx(found.logits.mean(axis=1), abs=1e-6)
    assert (maps.numpy(), members.numpy(), distance.numpy()) == tuple(
        pytest.approx(value, abs=1e-5) for value in (found.maps, found.logits, found.distance)
    )
    assert outputs_of({"members": [1, 2, 3], "statistics": True}) == ["logits", "maps", "members", "distance"]


def drop(tensors, prefix):
    for key in [key for key in tensors if key.startswith(prefix)]:
        del tensors[key]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda info, _: info.update(members=[]), "members"),
        (lambda info, _: info.update(members=info["members"][:2]), r"not of 2 members: member\.2"),
        (lambda info, _: info.update(members=[1, 2, 3]), "header is damaged: members"),
        (lambda info, _: info.update(members=[{"fold": [1]}] * 3), "header is damaged: members"),
        (lambda info, _: info.update(members=3), "header is damaged: members"),
        (lambda _, tensors: drop(tensors, "member.0.statistics"), "others have none"),
        (
            lambda _, tensors: tensors.update({"member.0.statistics.projection": torch.rand(())}),
            "statistics do not fit",
        ),
        (lambda _, tensors: tensors.update({"member.0.statistics.projection": torch.rand(32, 0)}), "statistics do not"),
        (lambda _, tensors: tensors.update({"member.0.statistics.mean": torch.full((32,), torch.nan)}), "do not fit"),
        (lambda info, _: info.pop("members"), "do not fit"),
        (lambda _, tensors: tensors.pop("member.1.head.bias"), "do not fit"),
        (lambda _, tensors: tensors.update({"member.0.statistics.mean": torch.rand(3)}), "statistics do not fit 32"),
        (lambda _, tensors: tensors.pop("member.0.statistics.mean"), "statistics do not fit 32"),
    ],
)
def test_a_damaged_ensemble_is_refused(ensemble, demo_zoo, tmp_path, change, message):
    file = tmp_path / "e.safetensors"
    ensemble.save(file)
    tensors, info = checkpoint.load_model_file(file)
    change(info, tensors)
    checkpoint.save_model_file(file, tensors, info)
    with pytest.raises(ModelFileError, match=message):
        models.load(file, demo_zoo)
