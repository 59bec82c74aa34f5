"""1 × 1 convolutions: oneDNN computes them on one thread, too, and they compute what they did."""

import pytest
import torch
from torch import nn

from fxcli.model.pointwise import by_onednn

CPU = torch.device("cpu")
HAS_AVX = torch.backends.cpu.get_cpu_capability().startswith("AVX") and torch.backends.mkldnn.is_available()


@pytest.fixture
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def called(net, images):
    """The functions of torch that run the convolutions."""
    with torch.inference_mode(), torch.profiler.profile() as profile:
        net(images)
    return {
        event.key.removeprefix("aten::")
        for event in profile.key_averages()
        if "conv2d" in event.key or "mkldnn" in event.key
    }


def net():
    torch.manual_seed(0)
    parts = [
        nn.Conv2d(8, 16, 1),
        nn.Conv2d(16, 16, 1, stride=2, padding=1),
        nn.Conv2d(16, 16, 3, padding=1),
        nn.ReLU6(),
    ]
    return nn.Sequential(*parts).to(memory_format=torch.channels_last)


@pytest.mark.skipif(not HAS_AVX, reason="torch has no oneDNN for this processor")
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_a_stream_runs_them_by_onednn(one_thread):
    network, images = net(), torch.rand(4, 8, 64, 64).contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        before = network(images)
    assert "_slow_conv2d_forward" in called(network, images), "torch has learnt it: this module is not needed any more"
    undo = by_onednn(network, CPU)
    assert "_slow_conv2d_forward" not in called(network, images)
    with torch.inference_mode():
        assert torch.allclose(network(images), before, atol=1e-5)
    undo()
    assert [part.dilation for part in network[:3]] == [(1, 1)] * 3


@pytest.mark.parametrize(("device", "kind"), [("meta", torch.float32), ("cpu", torch.bfloat16)])
def test_others_stay_as_they_are(device, kind):
    network = net().to(device=device, dtype=kind)
    by_onednn(network, torch.device(device))
    assert [part.dilation for part in network[:3]] == [(1, 1)] * 3


def test_where_there_is_no_onednn_nothing_is_done(monkeypatch):
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    network = net()
    by_onednn(network, CPU)
    assert network[0].dilation == (1, 1)
