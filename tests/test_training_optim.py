import pytest
import torch
from torch import nn

from fxcli import BackboneSpec
from fxcli.model import freeze
from fxcli.recipe.schema import Optim, Schedule
from fxcli.training import optim


def rates(schedule, total, per_epoch=10):
    return [optim.rate(schedule, step, total, per_epoch) for step in range(total)]


@pytest.mark.parametrize("total", [3, 7, 100])
@pytest.mark.parametrize("pct_start", [0.3, 0.5])
def test_onecycle_is_torchs(total, pct_start):
    parameter = nn.Parameter(torch.zeros(1))
    reference = torch.optim.SGD([parameter], lr=1.0)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(
        reference, max_lr=1.0, total_steps=total, pct_start=pct_start, cycle_momentum=False
    )
    expected = []
    for _ in range(total):
        expected.append(reference.param_groups[0]["lr"])
        reference.step()
        scheduler.step()
    found = rates(Schedule(name="onecycle", pct_start=pct_start), total)
    assert found == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(("total", "pct_start"), [(1, 0.3), (2, 0.5)])
def test_onecycle_of_very_few_steps_learns_where_torchs_divides_by_zero(total, pct_start):
    assert rates(Schedule(name="onecycle", pct_start=pct_start), total)[0] == 1.0


def test_cosine_falls_from_one_to_nearly_zero():
    found = rates(Schedule(name="cosine"), 50)
    assert found[0] == 1.0
    assert found == sorted(found, reverse=True)
    assert 0 < found[-1] < 0.01


def test_warmup_rises_linearly_then_cosine_starts_at_one():
    found = rates(Schedule(name="cosine", warmup_epochs=1), 50)
    assert found[:10] == pytest.approx([(i + 1) / 11 for i in range(10)])
    assert found[10] == 1.0


@pytest.mark.parametrize("name", ["cosine", "constant", "step"])
def test_warmup_of_nearly_all_epochs_reaches_the_rate_with_one_step_an_epoch(name):
    assert rates(Schedule(name=name, warmup_epochs=1.6), 2, per_epoch=1) == [0.5, 1.0]
    assert rates(Schedule(name=name, warmup_epochs=0.6), 1, per_epoch=1) == [1.0]


def test_step_drops_by_gamma():
    found = rates(Schedule(name="step", step_epochs=2, gamma=0.5), 60)
    assert found[:20] == [1.0] * 20
    assert found[20:40] == [0.5] * 20
    assert found[40:] == [0.25] * 20


def test_constant_is_one():
    assert set(rates(Schedule(), 5)) == {1.0}


def test_lars_moves_weights_by_their_own_norm_and_biases_by_their_gradient():
    """Eq. 5 and 6 of You et al. 2017, momentum by hand; also without weight decay."""
    for decay in (0.01, 0.0):
        torch.manual_seed(0)
        layer = nn.Linear(3, 2)
        settings = Optim(name="lars", lr=0.5, momentum=0.9, weight_decay=decay)
        spec = BackboneSpec(name="none", build=nn.Module, num_features=3, stages=())
        optimizer = optim.make(settings, freeze.parameter_groups(layer, layer, spec, settings))
        weight, bias = layer.weight.detach().clone(), layer.bias.detach().clone()
        speed = [torch.zeros_like(weight), torch.zeros_like(bias)]
        for step in range(1, 4):
            optimizer.zero_grad()
            layer(torch.arange(3.0) * step).square().sum().backward()
            slope = layer.weight.grad
            local = 0.001 * weight.norm() / (slope.norm() + decay * weight.norm())
            speed[0] = 0.9 * speed[0] + local * (slope + decay * weight)
            speed[1] = 0.9 * speed[1] + layer.bias.grad
            weight, bias = weight - 0.5 * speed[0], bias - 0.5 * speed[1]
            optimizer.step()
            torch.testing.assert_close(layer.weight.detach(), weight)
            torch.testing.assert_close(layer.bias.detach(), bias)


@pytest.mark.parametrize("name", ["adamw", "sgd", "lars"])
def test_state_survives_a_round_trip_bit_for_bit(name):
    def trained(steps, parameter, optimizer):
        for step in range(steps):
            optimizer.zero_grad()
            (parameter * torch.arange(4.0) * (step + 1)).sum().backward()
            optimizer.step()

    def fresh(value):
        parameter = nn.Parameter(value.clone())
        groups = [{"params": [parameter], "lr": 0.1, "weight_decay": 0.01, "factor": 1.0}]
        return parameter, optim.make(Optim(name=name), groups)

    whole, optimizer = fresh(torch.ones(4))
    trained(3, whole, optimizer)
    first, before = fresh(torch.ones(4))
    trained(3, first, before)
    second, after = fresh(first.detach())
    optim.load_state(after, optim.state_tensors(before))
    trained(2, whole, optimizer)
    trained(2, second, after)
    assert torch.equal(whole, second)
    assert optim.state_tensors(after).keys() == optim.state_tensors(before).keys() != set()


@pytest.mark.parametrize("name", ["adamw", "sgd", "lars"])
def test_a_parameter_may_get_its_first_gradient_late(name):
    """As in a backbone that skips a block now and then; what began early moves as without it."""
    early, late, alone = (nn.Parameter(torch.ones(2, 2)) for _ in range(3))

    def made(*parameters):
        return optim.make(Optim(name=name), [{"params": parameters, "lr": 0.1, "weight_decay": 0.01, "factor": 1.0}])

    optimizers = made(early, late), made(alone)
    for step in range(1, 4):
        late.grad = torch.full((2, 2), float(step)) if step > 1 else None
        for parameter, optimizer in zip((early, alone), optimizers, strict=True):
            parameter.grad = torch.tensor([[0.3, -0.0], [0.1, 2.0]]) * step
            optimizer.step()
        assert (late == 1).all() == (step == 1)
    assert torch.equal(early, alone)


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_state_is_put_back_in_the_layout_of_the_parameter(name):
    """Files hold plain tensors, and a fused step runs through memory without looking at strides."""

    def made(value):
        parameter = nn.Parameter(value.clone(memory_format=torch.channels_last))
        group = {"params": [parameter], "lr": 0.1, "weight_decay": 0.0, "factor": 1.0}
        return parameter, optim.make(Optim(name=name), [group])

    def step(parameter, optimizer):
        parameter.grad = torch.arange(120.0).reshape(2, 3, 4, 5).clone(memory_format=torch.channels_last) * parameter
        optimizer.step()

    whole, optimizer = made(torch.rand(2, 3, 4, 5))
    step(whole, optimizer)
    second, after = made(whole.detach())
    optim.load_state(after, {key: value.contiguous() for key, value in optim.state_tensors(optimizer).items()})
    step(whole, optimizer)
    step(second, after)
    assert torch.equal(whole, second)
    for key, value in optim.state_tensors(after).items():
        assert key.endswith("step") or value.is_contiguous(memory_format=torch.channels_last)


def test_set_rate_keeps_the_factors():
    parameters = [nn.Parameter(torch.zeros(1)) for _ in range(2)]
    groups = [
        {"params": [parameters[0]], "lr": 1.0, "weight_decay": 0.0, "factor": 1.0},
        {"params": [parameters[1]], "lr": 1.0, "weight_decay": 0.0, "factor": 0.5},
    ]
    optimizer = optim.make(Optim(name="sgd"), groups)
    optim.set_rate(optimizer, 0.2)
    assert [group["lr"] for group in optimizer.param_groups] == [0.2, 0.1]


def test_sgd_without_momentum_is_plain():
    groups = [{"params": [nn.Parameter(torch.zeros(1))], "lr": 1.0, "weight_decay": 0.0, "factor": 1.0}]
    optimizer = optim.make(Optim(name="sgd", momentum=0.0), groups)
    assert optimizer.param_groups[0]["nesterov"] is False
