"""SimCLR and BYOL against lightly, their views, and the family simclr:<backbone>."""

from __future__ import annotations

import ast
import copy
import json
import math
import pickle
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from torch import nn

import fx_simclr
import fxcli
from fx_simclr import BYOLOptions, SimCLROptions, byol, simclr
from fxcli import BackboneArgs, BackboneSpec, PretrainArgs, WeightSource, find_backbone
from fxcli.console import console
from fxcli.data.preprocess import Clean, Preprocessing
from fxcli.errors import PluginError, UnknownName, WeightsUnavailable
from fxcli.model.init import initialise
from fxcli.run import directory
from fxcli.run.checkpoint import save_model_file
from fxcli.testing import check_backbone
from fxcli.zoo.checks import check_spec
from fxcli.zoo.plugins import load_zoo

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from lightly.loss import NegativeCosineSimilarity, NTXentLoss
    from lightly.utils.scheduler import cosine_schedule

METHODS = {
    "simclr": SimCLROptions(embedding_dim=8),
    "byol": BYOLOptions(hidden_dim=16, embedding_dim=8, momentum=0.5),
}


def args_of(method: str, size_px: int = 32) -> PretrainArgs:
    return PretrainArgs(image_size_px=size_px, num_features=6, options=METHODS[method])


def tiny_backbone() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 6, 4, stride=4), nn.BatchNorm2d(6), nn.ReLU())


def built(method: str) -> nn.Module:
    torch.manual_seed(0)
    return load_zoo().pretrainer(method).build(tiny_backbone(), args_of(method)).train()


def pair(seed: int = 0, shape: tuple[int, ...] = (6, 3, 32, 32)) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    first = torch.randn(shape, generator=generator)
    return first, first + 0.3 * torch.randn(shape, generator=generator)


@pytest.mark.parametrize("temperature", [0.07, 0.5, 2.0])
@pytest.mark.parametrize("count", [2, 7])
def test_nt_xent_is_that_of_lightly(temperature, count):
    first, second = pair(count, (count, 5))
    expected = NTXentLoss(temperature=temperature)(first, second)
    assert simclr.nt_xent(first, second, temperature).item() == pytest.approx(expected.item(), abs=1e-5)


def test_nt_xent_under_autocast_is_that_without():
    alike = 5 + 0.05 * torch.randn((2, 16, 32), generator=torch.Generator().manual_seed(0))
    expected = simclr.nt_xent(*alike, 0.1)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(simclr.nt_xent(*alike, 0.1), expected)


def test_nt_xent_is_equation_1():
    first, second = pair(3, (3, 5))
    vectors = [vector / vector.norm() for vector in torch.cat([first, second])]
    terms = []
    for i in range(6):
        weights = [math.exp(vectors[i] @ vectors[k] / 0.5) for k in range(6)]
        terms.append(-math.log(weights[(i + 3) % 6] / (sum(weights) - weights[i])))
    assert simclr.nt_xent(first, second, 0.5).item() == pytest.approx(sum(terms) / 6, abs=1e-5)


def test_byol_distance_is_that_of_lightly():
    predictions, targets = pair(1, (7, 5))
    expected = 2 + 2 * NegativeCosineSimilarity()(predictions, targets)
    assert byol.distance(predictions, targets).item() == pytest.approx(expected.item(), abs=1e-5)
    assert byol.distance(targets, targets).item() == pytest.approx(0, abs=1e-6)


def test_byol_loss_is_symmetric_and_teaches_only_the_online_net():
    module, (first, second) = built("byol"), pair()
    online, target = copy.deepcopy(module), copy.deepcopy(module)
    loss = module.loss((first, second))
    criterion, parts = NegativeCosineSimilarity(), []
    for one, other in ((first, second), (second, first)):
        prediction = online.predictor(online.projector(online.backbone(one).mean(dim=(2, 3))))
        projection = target.target_projector(target.target_backbone(other).mean(dim=(2, 3)))
        parts.append(2 + 2 * criterion(prediction, projection))
    assert loss.item() == pytest.approx(sum(parts).item(), abs=1e-5)
    loss.backward()
    without = {name.partition(".")[0] for name, value in module.named_parameters() if value.grad is None}
    assert without == {"target_backbone", "target_projector"}


def test_momentum_rises_along_the_cosine_of_lightly():
    for step in range(11):
        assert byol.momentum(0.99, step / 10) == pytest.approx(cosine_schedule(step, 11, 0.99, 1.0), abs=1e-9)
    assert (byol.momentum(0.99, 0.0), byol.momentum(0.99, 1.0)) == (0.99, 1.0)


def test_the_target_follows():
    module = built("byol")
    for parameter in [*module.backbone.parameters(), *module.projector.parameters()]:
        parameter.data += 1
    before = {name: value.clone() for name, value in module.named_parameters()}
    module.after_step(0.0)
    for name, value in module.named_parameters():
        # momentum 0.5 at the start: the target goes half the way that the online net went
        assert torch.allclose(value, before[name] + (0.5 if name.startswith("target_") else 0), atol=1e-6)
    halfway = copy.deepcopy(module.state_dict())
    module.after_step(1.0)
    assert all(torch.equal(value, halfway[name]) for name, value in module.state_dict().items())


@pytest.mark.parametrize("method", METHODS)
def test_the_loss_falls(method):
    module, views = built(method), pair()
    optimizer = torch.optim.AdamW([p for p in module.parameters() if p.requires_grad], lr=1e-2)
    losses = []
    for step in range(12):
        loss = module.loss(views)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        module.after_step((step + 1) / 12)
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("channels", [1, 3])
def test_views(method, channels):
    transforms = pickle.loads(pickle.dumps(load_zoo().pretrainer(method).views(args_of(method))))
    assert len(transforms) == 2
    picture = torch.randint(0, 256, (1, 50, 70), dtype=torch.uint8).expand(channels, -1, -1)
    for transform in transforms:
        drawn = []
        for seed in (1, 1, 2):
            torch.manual_seed(seed)
            drawn.append(transform(picture))
        assert drawn[0].shape == (3, 32, 32)
        assert drawn[0].dtype == torch.uint8
        assert torch.equal(drawn[0], drawn[1])
        assert not torch.equal(drawn[0], drawn[2])
        assert torch.equal(drawn[0][0], drawn[0][2]), "grey stays grey"


def test_options_are_checked():
    with pytest.raises(ValidationError, match="less than or equal to 1"):
        BYOLOptions(blur=(0.5, 1.5))
    with pytest.raises(ValidationError, match="Extra inputs"):
        SimCLROptions(hue=0.1)
    assert BYOLOptions.model_validate_json(json.dumps({"blur": [0.5, 0]})).blur == (0.5, 0.0)


def test_registering_does_not_import_torch():
    code = "import sys, fx_simclr as p; p.fx_register_backbones(print); p.fx_register_pretrainers(print)"
    code += "; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False"


def test_only_public_names_are_imported():
    for file in Path(fx_simclr.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("fxcli"):
                assert node.module == "fxcli"
                assert {alias.name for alias in node.names} <= set(fxcli.__all__)


def finished_run(name: str, method: str, seed: int, *, status: str = "finished", demo: bool = False) -> nn.Module:
    """A run on disk as pretraining resnet18 leaves it; returns the backbone that it made."""
    torch.manual_seed(seed)
    backbone = find_backbone("resnet18").build(BackboneArgs(image_size_px=64))
    info = {"task": "pretrain", "created": name}
    run = directory.create(name, info, out=directory.RUNS / name)
    seen = Preprocessing(Clean(64), 64, "letterbox", (0.1, 0.2, 0.3), (0.5, 0.5, 0.5))
    header = {"method": method, "backbone": "resnet18", "demo": demo, "preprocessing": seen.to_mapping()}
    state = {f"backbone.{key}": value for key, value in backbone.state_dict().items()}
    save_model_file(run.model_file, state, header)
    run.update(status=status)
    return backbone


def test_family_is_the_backbone_with_other_weights():
    spec, inner = find_backbone("simclr:resnet18"), find_backbone("resnet18")
    assert spec.name == "simclr:resnet18"
    assert (spec.build, spec.stages, spec.num_features, spec.input) == (
        inner.build,
        inner.stages,
        inner.num_features,
        inner.input,
    )
    assert set(spec.weights) == {"simclr"}
    assert load_zoo().provider("backbone", "simclr:resnet18").name == "simclr"
    assert find_backbone("simclr:timm:test_resnet").weights["simclr"].backbone == "timm:test_resnet"
    with pytest.raises(UnknownName, match="unknown backbone 'resnet81' — did you mean resnet18"):
        find_backbone("simclr:resnet81")


@pytest.mark.slow
def test_family_keeps_the_contract():
    check_backbone("simclr:resnet18")


@pytest.mark.slow
def test_weights_are_those_of_the_last_finished_run(capsys):
    finished_run("1-older", "simclr", 1)
    wanted = finished_run("2-wanted", "simclr", 2, demo=True)
    finished_run("3-other", "byol", 3)
    finished_run("4-stopped", "simclr", 4, status="interrupted")
    spec = find_backbone("simclr:resnet18")
    module = spec.build(BackboneArgs(image_size_px=64))
    console.quiet = False
    seen = initialise(spec, module, "simclr")
    assert all(torch.equal(value, wanted.state_dict()[key]) for key, value in module.state_dict().items())
    assert (seen.mean, seen.std, seen.size_px) == ((0.1, 0.2, 0.3), (0.5, 0.5, 0.5), 64)
    told = capsys.readouterr().err
    assert (
        f"weights 'simclr' of simclr:resnet18: from {Path('runs', '2-wanted').absolute()}, pretrained on phantoms"
        in told
    )


def test_without_a_run_the_error_says_how_to_make_one():
    spec = find_backbone("simclr:resnet18")
    with pytest.raises(WeightsUnavailable) as error:
        initialise(spec, spec.build(BackboneArgs(image_size_px=64)), "simclr")
    assert "finished pretraining resnet18 with simclr" in str(error.value)
    assert "fx train pretrain_simclr --set model.backbone=resnet18" in str(error.value)


@pytest.mark.parametrize("more", [{}, {"backbone": "resnet18", "url": "https://example.org/a.pth"}])
def test_weights_of_a_run_need_method_and_backbone_and_nothing_else(more):
    spec = replace(find_backbone("resnet18"), weights={"a": WeightSource(pretrainer="simclr", **more)})
    with pytest.raises(PluginError, match="or pretrainer and backbone"):
        check_spec(spec, (BackboneSpec,))
