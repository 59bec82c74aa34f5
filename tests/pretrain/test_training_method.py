"""Methods of a broken plugin are told as broken."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from fx_simclr import simclr
from fxcli.errors import PluginError, RecipeError


class Aimless(nn.Module):
    """A method that lacks what makes it one."""

    def __init__(self, backbone):
        super().__init__()
        self.backbone = backbone


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda backbone, args: backbone.gone, "build failed: AttributeError: "),
        (lambda backbone, args: None, "build returned NoneType, not a torch module"),
        (lambda backbone, args: Aimless(nn.Identity()), "did not return a module with the backbone as its backbone"),
        (lambda backbone, args: Aimless(backbone), "what build returned has no loss and no after_step"),
    ],
)
def test_a_plugin_that_builds_no_method_is_told_as_broken(recipe_of, go, demo_zoo, monkeypatch, build, message):
    recipe, spec = recipe_of("simclr"), replace(demo_zoo.pretrainer("simclr"), build=build)
    monkeypatch.setattr(type(demo_zoo), "pretrainer", lambda zoo, name: spec)
    with pytest.raises(PluginError, match=f"pretrainer simclr: .*{message}"):
        go(recipe)


def _gone(*_):
    raise KeyError("gone")


def _small(picture):
    return torch.zeros(3, 8, 8, dtype=torch.uint8)


@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("views", "message"),
    [
        (_gone, "views failed: KeyError: 'gone'"),
        (lambda args: [_gone], "views returned no tuple of transforms"),
        (lambda args: (), "views returned no tuple of transforms"),
        (lambda args: (1, 2), "views returned no tuple of transforms"),
        (lambda args: (_small, _gone), r"view 0 is torch.uint8 \[3, 8, 8\], not torch.uint8 \[3, 32, 32\]"),
        (lambda args: (_gone,), "view 0 failed: KeyError: 'gone'"),
        (lambda args: (str,), "view 0 is str, not"),
    ],
)
def test_views_of_a_broken_plugin(recipe_of, go, demo_zoo, monkeypatch, workers, views, message):
    recipe = recipe_of("simclr", f"data.workers={workers}", "train.look_every=0")
    spec = replace(demo_zoo.pretrainer("simclr"), views=views)
    monkeypatch.setattr(type(demo_zoo), "pretrainer", lambda zoo, name: spec)
    with pytest.raises(PluginError, match=f"pretrainer simclr: {message}") as caught:
        go(recipe)
    assert "it is of the plugin simclr" in caught.value.hint


@pytest.mark.parametrize(
    ("what", "does", "message"),
    [
        ("loss", lambda self, views: self.gone, "loss failed: AttributeError"),
        ("loss", lambda self, views: 0.5, "its loss is {'loss': 'float'}, not a tensor of one number"),
        ("loss", lambda self, views: views[0], "its loss is {'loss': 'of shape [8, 3, 32, 32]'}, not"),
        ("loss", lambda self, views: torch.tensor(0.5), "its loss has no gradient"),
        ("after_step", _gone, "after_step failed: KeyError: 'gone'"),
    ],
)
def test_a_method_of_a_broken_plugin(recipe_of, go, monkeypatch, what, does, message):
    monkeypatch.setattr(simclr.SimCLR, what, does)
    with pytest.raises(PluginError) as caught:
        go(recipe_of("simclr", "train.look_every=0"))
    assert caught.value.what.startswith(f"pretrainer simclr: {message}")
    assert "it is of the plugin simclr" in caught.value.hint


def test_what_a_method_refuses_is_a_mistake_of_the_recipe(recipe_of, go, demo_zoo, monkeypatch):
    def build(backbone, args):
        raise ValueError("32 px are too few")

    recipe, spec = recipe_of("simclr"), replace(demo_zoo.pretrainer("simclr"), build=build)
    monkeypatch.setattr(type(demo_zoo), "pretrainer", lambda zoo, name: spec)
    with pytest.raises(RecipeError, match="pretrain: simclr: 32 px are too few"):
        go(recipe)
