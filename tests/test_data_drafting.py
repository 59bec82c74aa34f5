"""Drafted recipes load, say why, and follow the pictures: their number, sizes, classes and groups."""

from dataclasses import replace
from pathlib import Path

import pytest

from fxcli.data.drafting import Means, draft
from fxcli.data.manifest import Manifest, Row
from fxcli.errors import DataError
from fxcli.recipe.load import load


@pytest.fixture
def means(zoo):
    return Means(zoo.backbone("resnet18"), "random", "a reason", has_gpu=False)


@pytest.fixture
def zoo(demo_zoo):
    return demo_zoo


def pictures(classes, *, per_group=1, side_px=640, test=3):
    """A manifest with so many training pictures of each class."""
    rows = [
        Row(
            path=f"{label}/{split}{number}.png",
            label=label,
            split=split,
            group=f"{label}{split}{number // per_group}",
            width_px=side_px,
            height_px=side_px // 2,
        )
        for label, count in classes.items()
        for split, of_split in (("train", count), ("test", test))
        for number in range(of_split)
    ]
    return Manifest(Path("m/manifest.csv"), Path("m"), tuple(rows), "0" * 64)


def loaded(manifest, means):
    text = draft("mine", manifest, "m/manifest.csv", means)
    Path("mine.yaml").write_text(text, encoding="utf-8")
    return load("mine.yaml").recipe, text


def test_a_few_hundred_pictures_are_trained_on_as_best_does(means):
    recipe, text = loaded(pictures({"a": 400, "b": 334}), means)
    assert text.startswith(
        "# mine — drafted for 734 training pictures of 2 classes, in 734 groups\n"
        "# fx train, and the name of this file\n"
    )
    assert (recipe.data.image_size_px, recipe.ensemble.folds) == (320, 5)
    assert (recipe.model.backbone, recipe.model.init) == ("resnet18", "random")
    assert recipe.phases["deep"].train.epochs == load("best").recipe.phases["deep"].train.epochs
    assert recipe.phases["head"].train.batch_size == 32
    assert recipe.phases["deep"].train.class_weights == "none"
    assert "# a reason" in text


@pytest.mark.parametrize(
    ("side_px", "has_gpu", "expected"),
    [(1000, True, 512), (1000, False, 320), (430, True, 416), (300, False, 224), (100, True, 224), (0, True, 512)],
)
def test_the_side_is_what_pictures_and_machine_allow(means, side_px, has_gpu, expected):
    manifest = pictures({"a": 40, "b": 40}, side_px=side_px)
    recipe, text = loaded(manifest, replace(means, has_gpu=has_gpu))
    assert recipe.data.image_size_px == expected
    assert ("no longer than" in text) == (0 < side_px < 512)


def test_many_pictures_are_small_without_a_gpu_and_seen_less_often(means):
    recipe, text = loaded(pictures({"a": 3000, "b": 3000}), means)
    assert recipe.data.image_size_px == 224
    assert recipe.phases["deep"].train.epochs == 4
    assert recipe.ensemble.folds == 1
    assert "6000 groups: folds would take long" in text
    assert loaded(pictures({"a": 3000, "b": 3000}), replace(means, has_gpu=True))[0].data.image_size_px == 512


def test_few_pictures_and_uneven_classes(means):
    recipe, text = loaded(pictures({"common": 60, "rare": 12}, per_group=4), means)
    assert recipe.phases["deep"].train.class_weights == "balanced"
    assert "60 pictures of common, 12 of rare" in text
    assert recipe.phases["head"].train.batch_size == 4
    assert recipe.ensemble.folds == 3, "the rare class has three groups"


def test_a_class_of_one_group_allows_no_folds(means):
    recipe, text = loaded(pictures({"a": 30, "b": 4}, per_group=4), means)
    assert recipe.ensemble.folds == 1
    assert "a class with one group cannot be divided" in text


def test_the_deeper_stages_are_those_behind_stride_four(zoo, means):
    freeze = loaded(pictures({"a": 40, "b": 40}), means)[0].phases["deep"].model.freeze
    stages = {stage.name: stage.stride for stage in zoo.backbone("resnet18").stages}
    assert stages[freeze.removeprefix("until:")] == 4
    tiny = Means(zoo.backbone("demo_tiny"), "random", "it is tiny", has_gpu=False)
    assert loaded(pictures({"a": 40, "b": 40}), tiny)[0].phases["deep"].model.freeze == "until:stem"


def test_one_class_is_nothing_to_tell_apart(means):
    with pytest.raises(DataError, match="of 1 classes: there is nothing to tell apart"):
        draft("mine", pictures({"a": 9}), "m", means)


def test_a_calibration_part_is_what_folds_would_be_for(means):
    manifest = pictures({"a": 40, "b": 40})
    rows = [replace(row, split="calibration") if row.path.endswith("5.png") else row for row in manifest.rows]
    recipe, text = loaded(replace(manifest, rows=tuple(rows)), means)
    assert recipe.ensemble.folds == 1
    assert "pictures for calibration tell the model its errors" in text


def test_pictures_that_were_prepared_small_are_not_called_small(means, monkeypatch):
    monkeypatch.setattr(Manifest, "clean", lambda self: type("Clean", (), {"prepared_px": 256})())
    recipe, text = loaded(pictures({"a": 40, "b": 40}, side_px=1000), means)
    assert recipe.data.image_size_px == 224
    assert "pictures were prepared at 256 px" in text


def test_a_path_of_any_letters_is_read_back(means):
    text = draft("mine", pictures({"a": 40, "b": 40}), "x\U0001f600/é.csv", means)
    Path("mine.yaml").write_text(text, encoding="utf-8")
    assert load("mine.yaml").recipe.data.manifest == "x\U0001f600/é.csv"
