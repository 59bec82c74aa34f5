import pytest
import torch

from fxcli.errors import UsageError
from fxcli.model.hardware import Compute, compute, describe
from fxcli.recipe.schema import Hardware


def test_cpu_always_works_and_is_described():
    chosen = compute(Hardware(device="cpu"))
    assert chosen.device.type == "cpu"
    assert describe(chosen) == {
        "device": "cpu",
        "device_name": "cpu",
        "precision": "fp32",
        "channels_last": False,
        "threads": torch.get_num_threads(),
    }


def test_the_command_line_wins():
    assert compute(Hardware(device="cuda:7"), device="cpu").device.type == "cpu"


def test_a_device_that_is_not_there_is_told():
    with pytest.raises(UsageError, match="device cuda:99 cannot be used") as caught:
        compute(Hardware(device="cuda:99"))
    assert "--device cpu" in str(caught.value)


@pytest.mark.parametrize("name", ["nonsense", "cpux"])
def test_an_unknown_device_is_told(name):
    with pytest.raises(UsageError, match="cannot be used"):
        compute(Hardware(), device=name)


def test_threads_are_applied():
    before = torch.get_num_threads()
    try:
        compute(Hardware(threads=2, device="cpu"))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_layout_and_precision():
    chosen = Compute(torch.device("cpu"), precision="bf16", channels_last=True)
    images = chosen.send(torch.rand(2, 3, 8, 8))
    assert images.is_contiguous(memory_format=torch.channels_last)
    layer = chosen.place(torch.nn.Conv2d(3, 4, 3))
    with chosen.autocast():
        assert layer(images).dtype == torch.bfloat16
    with Compute(torch.device("cpu")).autocast():
        assert layer(images).dtype == torch.float32
