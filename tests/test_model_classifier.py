import json
import shutil

import pytest
import torch

from fxcli.data.preprocess import Clean, Preprocessing
from fxcli.errors import ModelFileError, RecipeError
from fxcli.model import classifier as models
from fxcli.model.classifier import TrainedModel
from fxcli.recipe.schema import Model
from fxcli.run import checkpoint

SETTINGS = Model(backbone="demo_tiny", init="random")
PREPROCESSING = Preprocessing(Clean(64), 64, "letterbox", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


@pytest.fixture
def model(demo_zoo):
    spec = demo_zoo.backbone("demo_tiny")
    info = {"task": "classify", "backbone": "demo_tiny", "model": SETTINGS.model_dump(mode="json"), "name": "x"}
    return TrainedModel(models.build(spec, SETTINGS, 64, 3, seed=1), spec, ("a", "b", "c"), PREPROCESSING, info)


def test_forward_is_pool_dropout_head(model):
    network = model.classifier.eval()
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


def test_file_copied_alone_gives_the_same_bits(model, demo_zoo, tmp_path):
    model.save(tmp_path / "model.safetensors")
    elsewhere = tmp_path / "elsewhere" / "renamed.safetensors"
    elsewhere.parent.mkdir()
    shutil.copy(tmp_path / "model.safetensors", elsewhere)
    loaded = models.load(elsewhere, demo_zoo)
    images = torch.rand(2, 3, 64, 64)
    assert torch.equal(loaded.classifier(images), model.classifier.eval()(images))
    assert (loaded.classes, loaded.preprocessing) == (model.classes, model.preprocessing)
    assert loaded.info["name"] == "x"
    assert "not a medical device" in loaded.info["intended_use"]


def test_init_from_a_file_takes_the_backbone_and_not_the_head(model, demo_zoo, tmp_path):
    model.save(tmp_path / "model.safetensors")
    settings = Model(backbone="demo_tiny", init=str(tmp_path / "model.safetensors"))
    fresh = models.build(model.spec, settings, 64, 5, seed=9)
    head = fresh.head.weight.clone()
    seen = models.start(fresh, model.spec, settings)
    assert torch.equal(fresh.backbone.stem[0].weight, model.classifier.backbone.stem[0].weight)
    assert torch.equal(fresh.head.weight, head)
    assert seen.mean == PREPROCESSING.mean


def test_init_from_another_backbone_is_refused(model, demo_zoo, tmp_path):
    model.info["backbone"] = "other"
    model.save(tmp_path / "model.safetensors")
    with pytest.raises(RecipeError, match="holds other, the recipe wants demo_tiny"):
        models.start(
            model.classifier, model.spec, Model(backbone="demo_tiny", init=str(tmp_path / "model.safetensors"))
        )


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"classes": []}, "not the file of a classifier"),
        ({"task": "pretrain"}, "not the file of a classifier"),
        ({"preprocessing": {"mean": 1}}, "header is damaged"),
        ({"model": {"backbone": "demo_tiny", "nonsense": 1}}, "header is damaged"),
        ({"model": {"backbone": "gone"}, "plugin": {"distribution": "fx-gone", "version": "3"}}, "backbone gone"),
        ({"classes": ["a", "b"]}, "do not fit"),
    ],
)
def test_headers_that_cannot_be_used(model, demo_zoo, tmp_path, change, match):
    file = tmp_path / "model.safetensors"
    header = {**model.info, "classes": ["a", "b", "c"], "preprocessing": PREPROCESSING.to_mapping(), **change}
    checkpoint.save_model_file(file, model.classifier.state_dict(), json.loads(json.dumps(header)))
    with pytest.raises(ModelFileError, match=match):
        models.load(file, demo_zoo)
