"""What a plugin may register: every field of a spec is checked, and each problem named."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from fxcli import BackboneFamily, BackboneSpec, DetectorSpec, InputSpec, NoOptions, Stage, WeightSource
from fxcli.errors import PluginError
from fxcli.zoo.checks import check_spec

SPEC = BackboneSpec(
    name="tiny",
    build=lambda args: None,
    num_features=8,
    stages=(Stage(name="all", modules=("",), stride=8, channels=8),),
)
GOOD = WeightSource(url="https://example.org/a.pth", sha256="0123abcd")


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"name": "a b"}, "a name is made of"),
        ({"name": 3}, "a name is made of"),
        ({"build": None}, "build must be callable"),
        ({"num_features": 0}, "num_features must be a positive integer"),
        ({"num_features": 9}, "the last stage has 8 channels, num_features is 9"),
        ({"stages": ()}, "at least one Stage"),
        ({"stages": ("all",)}, "at least one Stage"),
        ({"stages": (replace(SPEC.stages[0], modules=()),)}, "stage all: modules"),
        ({"stages": (replace(SPEC.stages[0], modules="net"),)}, "stage all: modules"),
        ({"stages": (replace(SPEC.stages[0], parameters="token"),)}, "stage all: parameters"),
        ({"stages": (replace(SPEC.stages[0], stride=0),)}, "stride and channels"),
        ({"stages": (replace(SPEC.stages[0], name=""),)}, "stage name ''"),
        ({"stages": (*SPEC.stages, *SPEC.stages)}, "stage names must differ: all, all"),
        ({"input": None}, "input must be an InputSpec"),
        ({"input": InputSpec(size_px=28)}, "input.size_px must be a whole number from 32 to 2048"),
        ({"input": InputSpec(size_px=4096)}, "input.size_px"),
        ({"input": InputSpec(size_px=224.0)}, "input.size_px"),
        ({"input": InputSpec(std=(1, 1, 0))}, "input.std"),
        ({"input": InputSpec(std=(1, 1, math.inf))}, "three finite numbers"),
        ({"input": InputSpec(mean=(0, math.nan, 0))}, "three finite numbers"),
        ({"input": InputSpec(interpolation="nearest")}, "not 'nearest'"),
        ({"options": dict}, "options must be a pydantic model class"),
        (
            {"options": type("Loose", (NoOptions,), {"model_config": {"extra": "ignore"}})},
            "forbid unknown keys",
        ),
        ({"weights": ["imagenet"]}, "weights must be a mapping"),
        ({"weights": {"random": GOOD}}, "'random' is taken"),
        ({"weights": {"a": "url"}}, "weights 'a': must be a WeightSource"),
        ({"weights": {"a": replace(GOOD, sha256="0123")}}, "8 to 64 hexadecimal digits"),
        ({"weights": {"a": replace(GOOD, sha256=None)}}, "a file that Python pickled needs its sha256"),
        ({"weights": {"a": WeightSource(package="p", resource="r.pt")}}, "a file that Python pickled needs its sha256"),
        ({"weights": {"a": replace(GOOD, url="https://example.org/a.pkl")}}, "url must be https"),
        ({"weights": {"a": replace(GOOD, url="ftp://example.org/a.pth")}}, "url must be https"),
        ({"weights": {"a": replace(GOOD, url="https://example.org/a.pth?id=1")}}, "url must be https"),
        ({"weights": {"a": WeightSource()}}, "either url, or package and resource"),
        ({"weights": {"a": replace(GOOD, package="p", resource="r.pth")}}, "either url, or package"),
        ({"weights": {"a": WeightSource(package="p")}}, "either url, or package and resource"),
        ({"weights": {"a": WeightSource(package="p", resource="r.pkl")}}, "resource must end in"),
        ({"weights": {"a": replace(GOOD, input=InputSpec(size_px=-1))}}, "weights 'a': input.size_px"),
    ],
)
def test_specs_that_are_refused(change, problem):
    with pytest.raises(PluginError, match=problem.replace("(", r"\(")):
        check_spec(replace(SPEC, **change), (BackboneSpec,))


def test_specs_that_are_taken():
    check_spec(replace(SPEC, weights={"imagenet": GOOD}), (BackboneSpec,))
    check_spec(replace(SPEC, weights={"a": WeightSource(package="p", resource="r.safetensors")}), (BackboneSpec,))
    check_spec(BackboneFamily(prefix="a", resolve=print), (BackboneSpec, BackboneFamily))


def test_every_problem_of_a_spec_is_told_at_once():
    with pytest.raises(PluginError, match="build must be callable") as error:
        check_spec(DetectorSpec(name="?", build=None, options=int), (DetectorSpec,))
    assert len(error.value.what.split("; ")) == 3
    with pytest.raises(PluginError, match="resolve must be callable"):
        check_spec(BackboneFamily(prefix="a", resolve=None), (BackboneFamily,))
