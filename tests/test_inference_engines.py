import copy
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from fxcli.inference import engines
from fxcli.inference.engines import TorchEngine
from fxcli.inference.opened import open_model
from fxcli.inference.runtimes import RuntimeEngine
from fxcli.model import classifier as models
from fxcli.model import hardware
from fxcli.model.hardware import Compute
from fxcli.run import checkpoint

CPU = torch.device("cpu")


@pytest.fixture
def model(trained, demo_zoo):
    return models.load(trained.model_file, demo_zoo)


def images(count=6):
    return np.random.default_rng(0).integers(0, 256, (count, 1, 64, 64)).astype(np.uint8)


def test_the_fast_engine_gives_the_answers_of_the_exact_one(model):
    exact = TorchEngine(model.members, model.preprocessing, Compute(CPU))
    fast, rounded = (
        engines.fast(copy.deepcopy(model.members), model.preprocessing, Compute(CPU, kind), model.spec.stages)
        for kind in ("fp32", "bf16")
    )
    logits, maps, distance, features = exact.run(images())
    assert (logits.shape, maps.shape[:2]) == ((6, 1, 3), (6, 3))
    assert (distance.shape, features.shape) == ((6,), (6, 1, 32))
    for engine, tolerance in ((fast, 1e-4), (rounded, 0.05)):
        found, found_maps, found_distance, found_features = engine.run(images())
        assert found.dtype == found_maps.dtype == found_features.dtype == np.float32
        assert np.abs(found_features - features).max() < tolerance
        assert np.abs(found - logits).max() < tolerance
        assert np.abs(found_maps - maps).max() < tolerance
        assert found_distance == pytest.approx(distance, rel=0.1)
    assert not np.array_equal(rounded.run(images()).logits, logits)


def test_the_fast_engine_alone_gives_small_kernels_to_onednn(model):
    def dilations(members):
        parts = [part for member in members for part in member.backbone.modules() if isinstance(part, torch.nn.Conv2d)]
        return {part.kernel_size: part.dilation for part in parts}

    before = dilations(model.members)
    assert set(before.values()) == {(1, 1)}
    engines.fast(model.members, model.preprocessing, Compute(CPU), model.spec.stages)
    is_x86 = torch.backends.cpu.get_cpu_capability().startswith("AVX")
    assert dilations(model.members) == before | ({(1, 1): (2, 2)} if is_x86 and (1, 1) in before else {})


@pytest.mark.parametrize("name", ["torch", "openvino"])
def test_threads_share_what_torch_has(model, name):
    """What runs beside an engine on its threads, as a detector does, takes its share of the processor alone."""
    torch_engine = TorchEngine(model.members, model.preprocessing, Compute(CPU))
    engine = torch_engine if name == "torch" else RuntimeEngine(name, "fp32", 2, lambda image: {})
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        for streams, share in ((2, 2), (8, 1)):
            with engine.shared_by(streams) as begin, ThreadPoolExecutor(1, initializer=begin) as pool:
                assert pool.submit(torch.get_num_threads).result() == share
            assert torch.get_num_threads() == 4
    finally:
        torch.set_num_threads(before)


def test_the_network_is_on_its_device_before_it_is_run(model, monkeypatch):
    seen = []

    def fold(classifier, images):
        weight = classifier.backbone.stem[0].weight
        seen.append(weight.is_contiguous(memory_format=torch.channels_last) and not weight.is_contiguous())
        return set()

    monkeypatch.setattr(engines, "fold_batchnorm", fold)
    engines.fast(model.members, model.preprocessing, Compute(CPU), model.spec.stages)
    assert seen == [True]


def test_weights_are_rounded_once_and_the_head_never(model):
    engine = engines.fast(model.members, model.preprocessing, Compute(CPU, "bf16"), model.spec.stages)
    kinds = {name: value.dtype for name, value in engine.members[0].named_parameters()}
    assert {dtype for name, dtype in kinds.items() if name.startswith("backbone.")} == {torch.bfloat16}
    assert {dtype for name, dtype in kinds.items() if name.startswith("head.")} == {torch.float32}
    assert engine.precision == "bf16"


def test_the_first_stages_may_stay_in_fp32(model):
    exact = TorchEngine(model.members, model.preprocessing, Compute(CPU)).run(images()).logits
    engine = engines.fast(
        copy.deepcopy(model.members), model.preprocessing, Compute(CPU, "bf16"), model.spec.stages, fp32_stride=4
    )
    kinds = {name: value.dtype for name, value in engine.members[0].backbone.named_parameters()}
    assert {dtype for name, dtype in kinds.items() if name.startswith("stem.")} == {torch.float32}
    assert {dtype for name, dtype in kinds.items() if name.startswith("body.")} == {torch.bfloat16}
    partly = engine.run(images()).logits
    whole = (
        engines.fast(model.members, model.preprocessing, Compute(CPU, "bf16"), model.spec.stages, fp32_stride=8)
        .run(images())
        .logits
    )
    assert 0 < np.abs(partly - exact).max() < 0.05
    assert np.abs(whole - exact).max() < 1e-5


def test_maps_add_up_to_the_logits_in_bf16_too(model):
    engine = engines.fast(model.members, model.preprocessing, Compute(CPU, "bf16"), model.spec.stages)
    logits, maps, *_ = engine.run(images())
    bias = engine.members[0].head.bias.detach().numpy()
    assert maps.sum(axis=(2, 3)) + bias == pytest.approx(logits[:, 0], abs=1e-4)


def test_a_network_without_a_head_is_made_fast_by_its_feature_map(model, demo_zoo):
    tensors = {f"backbone.{name}": value for name, value in model.backbone.state_dict().items()}
    header = {**model.info, "task": "pretrain", "preprocessing": model.preprocessing.to_mapping()}
    checkpoint.save_model_file(Path("pre.safetensors"), tensors, header)
    exact = TorchEngine(model.members, model.preprocessing, Compute(CPU)).run(images())
    headless = models.load(Path("pre.safetensors"), demo_zoo, headless=True)
    engine = engines.fast(headless.members, model.preprocessing, Compute(CPU), model.spec.stages)
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in engine.members[0].modules())
    found = engine.run(images())
    assert (found.logits.shape, found.maps.shape) == ((6, 1, 0), (6, 0, 8, 8))
    assert np.abs(found.features - exact.features).max() < 1e-4


@pytest.fixture
def native_bf16(monkeypatch):
    monkeypatch.setattr(hardware, "has_bf16", lambda _: True)


def retold(trained, demo_zoo, **agreement):
    model = models.load(trained.model_file, demo_zoo)
    model.info["agreement"] = {"torch-cpu": {"bf16": agreement}} if agreement else {}
    model.save(trained.model_file)


FIGURES = {"n": 9, "agree": 1.0, "n_clear": 5, "agree_clear": 1.0, "mean_abs_dp": 0.0, "accuracy_drop": 0.0}


def test_prediction_takes_bf16_only_where_it_is_known_to_agree(trained, demo_zoo, native_bf16, capsys):
    retold(trained, demo_zoo, **FIGURES, passes=True)
    assert open_model(str(trained.path), fast=True).pipeline.engine.precision == "bf16"
    retold(trained, demo_zoo, **FIGURES | {"agree_clear": 0.9}, passes=False)
    capsys.readouterr()
    assert open_model(str(trained.path), fast=True).pipeline.engine.precision == "fp32"
    told = capsys.readouterr().err
    assert "computing in fp32: bf16 gives other answers (same class on" in told
    assert "90.0 % of the 5" in told
    retold(trained, demo_zoo)
    assert open_model(str(trained.path), fast=True).pipeline.engine.precision == "fp32"
    assert "was not compared with fp32" in capsys.readouterr().err
    assert open_model(str(trained.path), fast=True, precision="bf16").pipeline.engine.precision == "bf16"


def test_all_but_prediction_runs_fp32_unless_asked(trained, demo_zoo, native_bf16):
    retold(trained, demo_zoo, **FIGURES, passes=True)
    assert open_model(str(trained.path)).pipeline.engine.precision == "fp32"
    assert open_model(str(trained.path), precision="bf16").pipeline.engine.precision == "bf16"


def test_without_bf16_in_the_processor_nothing_is_said(trained, monkeypatch, capsys):
    monkeypatch.setattr(hardware, "has_bf16", lambda _: False)
    assert open_model(str(trained.path), fast=True).pipeline.engine.precision == "fp32"
    assert "computing in fp32" not in capsys.readouterr().err


def test_bf16_that_the_processor_lacks_is_warned_of(trained, monkeypatch, capsys):
    monkeypatch.setattr(hardware, "has_bf16", lambda _: False)
    assert open_model(str(trained.path), fast=True, precision="bf16").pipeline.engine.precision == "bf16"
    assert "has no bf16 of its own: it is emulated" in capsys.readouterr().err


@pytest.mark.parametrize("broken", [[], {"torch-cpu": 1}, {"torch-cpu": {"bf16": {"passes": True}}}])
def test_a_header_that_says_nothing_of_use_means_fp32(trained, demo_zoo, native_bf16, broken):
    model = models.load(trained.model_file, demo_zoo)
    model.info["agreement"] = broken
    model.save(trained.model_file)
    assert open_model(str(trained.path), fast=True).pipeline.engine.precision == "fp32"


@pytest.mark.slow
def test_what_was_trained_is_not_lost_to_a_comparison_that_fails(tiny_recipe, demo_zoo, monkeypatch):
    from typer.testing import CliRunner

    from fxcli.cli import app
    from fxcli.training import finish

    def fail(*_):
        raise RuntimeError("no such kernel")

    monkeypatch.setattr(finish, "has_bf16", lambda _: True)
    monkeypatch.setattr(finish.engines, "fast", fail)
    tiny_recipe()
    done = CliRunner().invoke(app, ["train", "tiny.yaml", "--out", "runs/kept"])
    assert done.exit_code == 0, done.output
    assert "bf16 was not compared with fp32, so fx predict will not take it: no such kernel" in done.stderr
    assert models.load(open_model("runs/kept").file, demo_zoo).info["agreement"] == {}


def test_training_keeps_how_far_bf16_agrees(tiny_recipe, demo_zoo, monkeypatch):
    from typer.testing import CliRunner

    from fxcli.cli import app
    from fxcli.training import finish

    monkeypatch.setattr(finish, "has_bf16", lambda _: True)
    tiny_recipe()
    done = CliRunner().invoke(app, ["train", "tiny.yaml", "--out", "runs/told"])
    assert done.exit_code == 0, done.output
    found = models.load(open_model("runs/told").file, demo_zoo).info["agreement"]["torch-cpu"]["bf16"]
    assert found["n"] == 12
    assert found["mean_abs_dp"] > 0
    assert isinstance(found["passes"], bool)
    assert "bf16 against fp32 on unseen pictures: same class on" in done.stderr
