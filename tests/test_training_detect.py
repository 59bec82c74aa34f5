"""Training of detectors: it learns where, resumes to the bit, and says what its data lack."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from stopping import stop_after
from typer.testing import CliRunner

from fxcli.cli import app
from fxcli.data.boxes import FILE, read_boxes
from fxcli.data.manifest import read_manifest
from fxcli.errors import DataError, Interrupted, RunError
from fxcli.evaluation import detection
from fxcli.inference.detected import Finder
from fxcli.model import detector as detectors
from fxcli.model.hardware import Compute
from fxcli.run import checkpoint, directory
from fxcli.training import detect, job, loop, session

CPU, BF16 = Compute(torch.device("cpu")), Compute(torch.device("cpu"), "bf16")
TIMES = ("seconds", "images_per_s", "data_wait_s", "compute_s")
PHASES = """
phases:
  warm: {train: {epochs: 1, ema: 0.9}, model: {freeze: "until:stem", bn: eval}, schedule: {name: onecycle}}
  tune: {start: last, augment: {hflip: 0.5, scale: [0.8, 1.2], brightness: 0.2}, train: {epochs: 1}}
"""


@pytest.fixture
def begin(demo_zoo):
    """A training and its run; with `run`, a training that can resume it."""

    def make(recipe, run=None, workers=0, compute=CPU):
        manifest = read_manifest(Path(recipe.data.manifest))
        training = job.build(
            recipe, manifest, compute, demo_zoo, job._header(recipe, manifest, compute, job.origin_of(recipe))
        )
        training.workers = workers
        return training, run or directory.create("tiny", {"created": "now"}, out=None)

    return make


def lines_of(run):
    lines = [json.loads(line) for line in run.metrics_file.read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in TIMES} for line in lines]


def assert_same(run, other):
    one, two = (checkpoint.load_model_file(each.model_file)[0] for each in (run, other))
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert lines_of(run) == lines_of(other)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["faster_rcnn", "fcos"])
def test_it_learns_where_the_bar_is(begin, tiny_detect, demo_zoo, method):
    sets = [f"detect.detector={method}", "train.epochs=20", "train.ema=0.9", "optim.lr=3e-3"]
    training, run = begin(tiny_detect(*sets))
    found = loop.train(training, run, resume=False)
    assert found["ap50"] > 0.5
    assert found["auroc"] > 0.8
    assert max(line["val_ap50"] for line in lines_of(run)) == pytest.approx(found["ap50"])
    header = checkpoint.read_header(run.model_file)
    assert header["classes"] == ["fracture"]
    assert header["task"] == "detect"
    assert set(header["operating_points"]) == {"0.5", "1", "2"}
    again = detectors.load(run.model_file, demo_zoo)
    manifest = training.manifest
    rows = manifest.part("val")
    boxes = read_boxes(manifest)
    said = Finder(again, CPU, batch_size=3, workers=0).readable([manifest.path_of(row) for row in rows])
    figures = detection.detection(said, [boxes.by_path[row.path] for row in rows], 1)
    assert figures == pytest.approx(found), "the file gives what training told, in pixels of the originals"


@pytest.mark.slow
def test_the_same_recipe_gives_the_same_bits_with_any_worker_count(begin, tiny_detect):
    recipe = tiny_detect("augment.rotate_deg=10", "augment.hflip=0.5", "train.epochs=1")
    runs = []
    for workers in (0, 2):
        training, run = begin(recipe, workers=workers)
        loop.train(training, run, resume=False)
        runs.append(run)
    assert_same(*runs)


@pytest.mark.slow
@pytest.mark.parametrize("cache", ["none", "disk"])
def test_kept_pictures_give_the_same_bits(begin, tiny_detect, cache):
    runs = []
    for mode in ("memory", cache):
        training, run = begin(tiny_detect(f"data.cache={mode}", "augment.hflip=0.5", "train.epochs=1"))
        loop.train(training, run, resume=False)
        runs.append(run)
    assert_same(*runs)


@pytest.mark.parametrize(
    ("steps", "compute"),
    [(2, CPU), *(pytest.param(*case, marks=pytest.mark.slow) for case in ((6, CPU), (8, CPU), (9, BF16)))],
)
def test_resume_ends_bitwise_equal(begin, tiny_detect, monkeypatch, steps, compute):
    """Six steps an epoch, one epoch a phase."""
    recipe = tiny_detect(phases=PHASES)
    training, whole = begin(recipe, compute=compute)
    loop.train(training, whole, resume=False)
    training, run = begin(recipe, compute=compute)
    with monkeypatch.context() as patch:
        stop_after(patch, steps)
        with pytest.raises(Interrupted, match=f"stopped at step {steps}"):
            loop.train(training, run, resume=False)
    training, _ = begin(recipe, run, compute=compute)
    torch.rand(7)  # what happened to the global generator in between must not matter
    loop.train(training, run, resume=True)
    assert_same(whole, run)
    for line in lines_of(run):
        parts = [value for name, value in line.items() if name.startswith("train_loss_")]
        assert len(parts) == 4
        assert sum(parts) == pytest.approx(line["train_loss"])


@pytest.mark.slow
def test_a_frozen_stage_stays(begin, tiny_detect):
    training, run = begin(tiny_detect("model.freeze='until:stem'", "train.epochs=1"))
    before = {name: value.clone() for name, value in training.model.backbone.state_dict().items()}
    loop.train(training, run, resume=False)
    after = training.model.backbone.state_dict()
    changed = {name for name, value in before.items() if not torch.equal(value, after[name])}
    assert changed
    assert all(name.startswith("body") for name in changed)


def test_negatives_are_as_many_as_wanted(begin, tiny_detect):
    for negatives, count in ((0, 12), (0.5, 18), (1, 24), (9, 24)):
        training, _ = begin(tiny_detect(f"detect.negatives={negatives}"))
        assert training.task.feed(training, None).batches.count == count


def test_batches_of_negatives_alone_teach_too(begin, tiny_detect):
    training, _ = begin(tiny_detect())
    loop.set_up(training, {})
    images = torch.zeros(2, 1, 96, 96, dtype=torch.uint8)
    nothing = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
    losses = detect._losses(training, (images, [nothing, nothing]))
    assert losses.keys() == {"classifier", "box_reg", "objectness", "rpn_box_reg"}
    loss = sum(losses.values())
    loss.backward()
    assert loss.isfinite()
    assert all(value.grad is None or value.grad.isfinite().all() for value in training.model.network.parameters())


def test_shapes_are_those_of_the_boxes_at_the_input(begin, tiny_detect):
    training, _ = begin(tiny_detect("data.image_size_px=192"))
    shapes = detectors.BoxShapes.from_mapping(training.model.info["box_shapes"])
    assert 2 * 14 - 1 <= shapes.sides_px[0] < shapes.sides_px[-1] <= 2 * 24
    assert shapes.ratios[0] < 1 < shapes.ratios[-1]


# --- what the data lack ---


def changed(tiny_detect, prepared_boxes, change):
    """A copy of the prepared folder with other boxes, and a recipe for it."""
    shutil.copytree(prepared_boxes, "copy")
    file = Path("copy", FILE)
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))
    return tiny_detect("data.manifest=copy/manifest.csv")


def drop(split):
    def change(content):
        ids = {image["id"] for image in content["images"] if f"/{split}/" in f"/{image['file_name']}"}
        ids |= {image["id"] for image in content["images"] if image["file_name"] in paths_of(split)}
        content["annotations"] = [each for each in content["annotations"] if each["image_id"] not in ids]

    return change


def paths_of(split):
    return {row.path for row in read_manifest(Path("copy/manifest.csv")).part(split)}


@pytest.mark.parametrize(
    ("split", "told"), [("train", "no training picture has a box"), ("val", "no validation picture with a box")]
)
def test_parts_without_boxes_are_told_before_a_run_is_made(begin, tiny_detect, prepared_boxes, split, told):
    recipe = changed(tiny_detect, prepared_boxes, drop(split))
    with pytest.raises(DataError, match=told):
        job.create(recipe, read_manifest(Path("copy/manifest.csv")), None)
    assert not Path("runs").exists()


@pytest.mark.parametrize(("is_labelled", "told"), [(True, "split.val_frac above 0"), (False, "split.policy=grouped")])
def test_how_to_come_to_a_validation_part(tiny_detect, prepared_boxes, is_labelled, told):
    """Of pictures without labels fx prepare draws none, whatever split.val_frac says."""
    recipe = changed(tiny_detect, prepared_boxes, drop("val"))
    manifest = read_manifest(Path("copy/manifest.csv"))
    if not is_labelled:
        manifest = replace(manifest, rows=tuple(replace(row, label="") for row in manifest.rows))
    with pytest.raises(DataError, match="no validation picture with a box") as caught:
        detect.check_parts(recipe, manifest)
    assert told in caught.value.hint


def test_a_manifest_without_boxes(tiny_detect, prepared):
    recipe = tiny_detect(f"data.manifest='{prepared / 'manifest.csv'}'")
    with pytest.raises(DataError, match="no boxes beside this manifest"):
        job.create(recipe, read_manifest(prepared / "manifest.csv"), None)


def test_resume_refuses_other_boxes(tiny_detect, prepared_boxes):
    recipe = changed(tiny_detect, prepared_boxes, lambda content: None)
    run = job.create(recipe, read_manifest(Path("copy/manifest.csv")), None)
    content = json.loads(Path("copy", FILE).read_text())
    content["annotations"][0]["bbox"][2] -= 1
    Path("copy", FILE).write_text(json.dumps(content))
    with pytest.raises(RunError, match="the boxes changed since this run was started"):
        job.reopen(run.path)


def test_val_auroc_needs_negatives(tiny_detect, prepared_boxes):
    def change(content):
        with_box = {each["image_id"] for each in content["annotations"]}
        content["images"] = [image for image in content["images"] if image["id"] in with_box]

    recipe = changed(tiny_detect, prepared_boxes, change)
    manifest = read_manifest(Path("copy/manifest.csv"))
    job.create(recipe, manifest, Path("first"))
    with pytest.raises(DataError, match="no validation picture without a box"):
        job.create(tiny_detect("train.monitor=val_auroc", "data.manifest=copy/manifest.csv"), manifest, None)


def test_a_share_of_the_training_pictures(begin, tiny_detect):
    """What it leaves out has boxes, too."""
    recipe = tiny_detect("data.train_frac=0.5")
    run = job.create(recipe, read_manifest(Path(recipe.data.manifest)), None)
    assert job.reopen(run.path)
    training, _ = begin(recipe)
    assert training.task.feed(training, None).batches.count == 12


def test_few_negatives_are_warned_of_once(tiny_detect, prepared_boxes, capsys):
    def change(content):
        """Of half of the training pictures without a box nothing is known."""
        boxed = {each["image_id"] for each in content["annotations"]}
        without = [each for each in content["images"] if each["id"] not in boxed and each["file_name"] in train]
        content["images"] = [each for each in content["images"] if each not in without[::2]]

    train = {row.path for row in read_manifest(prepared_boxes / "manifest.csv").part("train")}
    job.create(tiny_detect(), read_manifest(prepared_boxes / "manifest.csv"), None)
    assert "without a box" not in capsys.readouterr().err, "as many as are wanted"
    changed(tiny_detect, prepared_boxes, change)
    manifest = read_manifest(Path("copy/manifest.csv"))
    for negatives, told in ((0.5, ""), (1, "asks for 12"), (2, "asks for 24")):
        job.create(tiny_detect("data.manifest=copy/manifest.csv", f"detect.negatives={negatives}"), manifest, None)
        err = capsys.readouterr().err
        assert err.count("6 training pictures are known to be without a box") == bool(told)
        assert told in err
        assert ("of 6 others nothing is known: if nothing is on them, fx prepare with" in err) == bool(told)


# --- the command ---


def fx(*arguments):
    return CliRunner().invoke(app, [str(each) for each in arguments])


@pytest.mark.slow
def test_train_and_dry_run(tiny_detect):
    tiny_detect()
    done = fx("train", "boxes.yaml", "--dry-run", "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["phases"][0]["images_per_s"] > 0
    assert not Path("runs").exists()
    done = fx("train", "boxes.yaml", "--out", "runs/where")
    assert done.exit_code == 0, done.output
    assert "--boxes out/" in done.stderr
    info = json.loads(Path("runs/where/run.json").read_text())
    assert info["task"] == "detect"
    assert 0 <= info["figures"]["ap50"] <= 1


@pytest.mark.parametrize("option", ["--folds", "--seeds"])
def test_folds_are_for_classifiers(tiny_detect, option):
    tiny_detect()
    done = fx("train", "boxes.yaml", option, 2)
    assert done.exit_code == 2
    assert "is for task: classify" in done.stderr


def test_digest_is_of_the_whole_recipe(tiny_detect):
    assert session.digest_of(tiny_detect()) != session.digest_of(tiny_detect("detect.negatives=2"))


@pytest.mark.parametrize("method", ["faster_rcnn", "fcos", "yolox"])
def test_bf16_never_touches_boxes(begin, tiny_detect, method):
    """Of a box at 400 px bf16 keeps no pixel: the pyramid alone computes in it."""
    training, _ = begin(tiny_detect(f"detect.detector={method}"), compute=BF16)
    loop.set_up(training, {})
    seen = []
    network = training.model.network
    pyramid = next(module for module in network.modules() if type(module).__name__ == "Pyramid")
    pyramid.fpn.register_forward_hook(lambda module, inputs, output: seen.append(next(iter(output.values())).dtype))
    pyramid.register_forward_hook(lambda module, inputs, output: seen.append(next(iter(output.values())).dtype))
    heads = [
        module
        for name, module in network.named_modules()
        if type(module).__name__ in ("RPNHead", "FCOSHead", "YOLOXHead")
    ]
    heads[0].register_forward_hook(lambda module, inputs, output: seen.append(torch.is_autocast_enabled("cpu")))
    images = torch.zeros(2, 1, 96, 96, dtype=torch.uint8)
    target = {"boxes": torch.tensor([[11.0, 13, 31, 33]]), "labels": torch.tensor([1])}
    sum(detect._losses(training, (images, [target, target])).values()).backward()
    assert seen == [torch.bfloat16, torch.float32, False]
    assert not torch.is_autocast_enabled("cpu")


def test_bn_eval_is_of_the_backbone_alone(begin, tiny_detect):
    """The new head of YOLOX has BatchNorm that no picture has gone through."""
    training, _ = begin(tiny_detect("detect.detector=yolox", "model.bn=eval"))
    loop.set_up(training, {})
    norms = {
        name: module.training
        for name, module in training.model.network.named_modules()
        if isinstance(module, torch.nn.BatchNorm2d)
    }
    assert {is_training for name, is_training in norms.items() if ".backbone." in name} == {False}
    assert {is_training for name, is_training in norms.items() if ".backbone." not in name} == {True}


@pytest.mark.slow
def test_a_classifier_and_a_detector_start_from_a_detector(begin, tiny_detect, tiny_recipe):
    training, run = begin(tiny_detect("train.epochs=1"))
    loop.train(training, run, resume=False)
    learnt = training.model.backbone.state_dict()
    other, _ = begin(tiny_detect(f"model.init='{run.path}'"))
    assert all(torch.equal(value, learnt[name]) for name, value in other.model.backbone.state_dict().items())
    recipe = tiny_recipe(f"model.init='{run.path}'")
    classifier, _ = begin(recipe)
    assert all(torch.equal(value, learnt[name]) for name, value in classifier.model.backbone.state_dict().items())
