import copy

import pytest
import torch
from torch import nn
from torch.nn import functional

from fxcli.model import depthwise
from fxcli.model.depthwise import DepthwiseGradients
from fxcli.model.hardware import Compute

CPU_BF16 = Compute(torch.device("cpu"), "bf16", True)


@pytest.fixture
def taken(monkeypatch):
    """How often a convolution was taken over."""
    calls = []
    forward = depthwise._Depthwise.forward
    monkeypatch.setattr(
        depthwise._Depthwise, "forward", staticmethod(lambda *args: (calls.append(args[3:]), forward(*args))[1])
    )
    return calls


def gradients(module, images, cotangent, context):
    """Of the output's inner product with `cotangent`, by the pictures and by every weight."""
    module.zero_grad()
    images = images.clone().requires_grad_()
    with context:
        answer = module(images)
    (answer.float() * cotangent).sum().backward()
    return [images.grad.float(), *(value.grad.float() for value in module.parameters())]


@pytest.mark.parametrize("size", [(12, 12), (13, 12), (9, 15)])
@pytest.mark.parametrize("padding", [0, 1, 2])
@pytest.mark.parametrize(("kernel", "stride"), [(3, 2), (5, 1), (5, 2), (7, 1), (7, 2)])
def test_gradients_are_those_of_autograd(kernel, stride, padding, size, taken):
    torch.manual_seed(0)
    module = nn.Conv2d(4, 4, kernel, stride, padding, groups=4).to(memory_format=torch.channels_last)
    images = torch.randn(3, 4, *size).to(torch.bfloat16).float().contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        for value in module.parameters():
            value.copy_(value.to(torch.bfloat16))
    cotangent = torch.randn_like(module(images)).to(torch.bfloat16).float()
    exact = gradients(module, images, cotangent, torch.enable_grad())
    found = gradients(module, images, cotangent, CPU_BF16.autocast())
    assert taken == [(stride, padding)]
    for a, b in zip(found, exact, strict=True):
        # Eight bits of a number: a few roundings of the largest.
        assert (a - b).abs().max() <= 0.02 * b.abs().max()


@pytest.mark.parametrize("size", [(1, 1), (1, 6), (5, 1)])
@pytest.mark.parametrize("kernel", [3, 5, 7])
def test_a_map_of_one_row_or_column_has_gradients_too(kernel, size):
    torch.manual_seed(0)
    module = nn.Conv2d(4, 4, kernel, 2, kernel // 2, groups=4)
    images = torch.randn(2, 4, *size)
    cotangent = torch.randn_like(module(images))
    exact = gradients(module, images, cotangent, torch.enable_grad())
    found = gradients(module, images, cotangent, CPU_BF16.autocast())
    for a, b in zip(found, exact, strict=True):
        assert (a - b).abs().max() <= 0.03 * b.abs().max()


def test_the_output_is_that_of_autocast_alone():
    torch.manual_seed(0)
    module = nn.Conv2d(8, 8, 5, 2, 2, groups=8).to(memory_format=torch.channels_last)
    images = torch.randn(2, 8, 14, 14).contiguous(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16):
        plain = module(images)
    with CPU_BF16.autocast():
        ours = module(images)
    assert ours.dtype == plain.dtype == torch.bfloat16
    assert torch.allclose(ours.float(), plain.float(), atol=0.02)


def conv(*args, **kwargs):
    torch.manual_seed(0)
    return nn.Conv2d(*args, **kwargs)


@pytest.mark.parametrize(
    "module",
    [
        conv(8, 8, 3, 1, 1, groups=8),  # which oneDNN does fast itself
        conv(8, 8, 5, 1, 2),
        conv(8, 16, 5, 1, 2, groups=8),
        conv(8, 8, 5, 1, 2, groups=4),
        conv(8, 8, (5, 3), 1, (2, 1), groups=8),
        conv(8, 8, 5, (2, 1), 2, groups=8),
        conv(8, 8, 5, 3, 2, groups=8),
        conv(8, 8, 5, 1, (2, 1), groups=8),
        conv(8, 8, 5, 1, "same", groups=8),
        conv(8, 8, 5, 1, 4, dilation=2, groups=8),
        conv(8, 8, 5, 1, 2, groups=8, padding_mode="reflect").requires_grad_(False),
    ],
    ids=str,
)
def test_others_are_left_alone(module, taken):
    images = torch.randn(2, 8, 12, 12)
    with torch.autocast("cpu", torch.bfloat16):
        plain = module(images)
    with CPU_BF16.autocast():
        assert torch.equal(module(images), plain)
    assert not taken


def test_without_gradients_nothing_is_taken_over(taken):
    module = conv(8, 8, 5, 1, 2, groups=8)
    with CPU_BF16.autocast(), torch.inference_mode():
        module(torch.randn(1, 8, 9, 9))
    assert not taken


@pytest.mark.parametrize(
    "compute", [Compute(torch.device("cpu")), Compute(torch.device("meta"), "bf16", True)], ids=["fp32", "meta"]
)
def test_other_precisions_and_devices_are_left_alone(compute, taken, monkeypatch):
    monkeypatch.setattr(torch, "autocast", lambda *args, **kwargs: torch.enable_grad())
    module = conv(8, 8, 5, 1, 2, groups=8).to(compute.device)
    with compute.autocast():
        module(torch.randn(1, 8, 9, 9, device=compute.device))
    assert not taken


def test_a_part_that_switches_autocast_off_is_left_alone(taken):
    module = conv(8, 8, 5, 1, 2, groups=8)
    with CPU_BF16.autocast(), torch.autocast("cpu", enabled=False):
        assert module(torch.randn(1, 8, 9, 9)).dtype == torch.float32
    assert not taken


def test_arguments_may_come_by_name(taken):
    weight = torch.randn(4, 1, 5, 5, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16), DepthwiseGradients():
        functional.conv2d(torch.randn(1, 4, 8, 8), weight=weight, padding=2, groups=4).sum().backward()
    assert taken == [(1, 2)]
    assert weight.grad.shape == weight.shape


@pytest.mark.slow
def test_a_whole_network_learns_the_same(taken):
    """EfficientNet-Lite0 of timm, whose layers with a stride pad by hand: as near to fp32 as autocast alone."""
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    network = timm.create_model("tf_efficientnet_lite0", num_classes=7).to(memory_format=torch.channels_last).eval()
    images = torch.randn(2, 3, 64, 64).contiguous(memory_format=torch.channels_last)
    cotangent = torch.randn(2, 7)
    exact = gradients(copy.deepcopy(network), images, cotangent, torch.enable_grad())
    plain = gradients(copy.deepcopy(network), images, cotangent, torch.autocast("cpu", torch.bfloat16))
    assert not taken
    ours = gradients(copy.deepcopy(network), images, cotangent, CPU_BF16.autocast())
    assert len(taken) == 11
    assert off(ours, exact) < 1.2 * off(plain, exact)


def off(found, exact):
    """Relative distances of gradients, summed."""
    return sum((a - b).norm().item() / b.norm().item() for a, b in zip(found, exact, strict=True))
