import multiprocessing
import platform
import subprocess
import sys

import pytest
import torch

from fxcli.errors import RunError, UsageError
from fxcli.model import hardware
from fxcli.model.hardware import Compute, compute, describe, recorded
from fxcli.recipe.schema import Hardware


def test_cpu_always_works_and_is_described():
    chosen = compute(Hardware(device="cpu"))
    assert chosen.device.type == "cpu"
    assert describe(chosen) == {
        "device": "cpu",
        "device_name": "cpu",
        "precision": "fp32",
        "channels_last": True,
        "threads": torch.get_num_threads(),
    }


def test_the_command_line_wins():
    assert compute(Hardware(device="cuda:7"), device="cpu").device.type == "cpu"


def test_a_device_that_is_not_there_is_told():
    with pytest.raises(UsageError, match="device cuda:99 cannot be used") as caught:
        compute(Hardware(device="cuda:99"))
    assert caught.value.hint == "a new run with --set hardware.device=cpu always works"
    with pytest.raises(UsageError, match="device cuda:99 cannot be used") as caught:
        compute(Hardware(), device="cuda:99")
    assert caught.value.hint == "--device cpu always works"


@pytest.mark.parametrize("name", ["nonsense", "cpux", "meta", "vulkan", "cuda:x", "cpu\n"])
def test_an_unknown_device_is_told(name):
    with pytest.raises(UsageError, match="cannot be used: it must be auto, cpu, mps, cuda or cuda:<number>"):
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


def test_the_reason_is_one_sentence(monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("No driver here. " + "Please look. " * 50 + "\nand so on")

    monkeypatch.setattr(torch, "empty", fail)
    with pytest.raises(UsageError) as error:
        compute(Hardware(device="cuda"))
    assert error.value.what == "device cuda cannot be used: No driver here"
    monkeypatch.setattr(torch, "empty", lambda *_, **__: (_ for _ in ()).throw(RuntimeError("x" * 999)))
    with pytest.raises(UsageError) as error:
        compute(Hardware(device="cuda"))
    assert len(error.value.what) < 250


@pytest.mark.parametrize(
    ("capability", "native", "emulated", "expected"),
    [
        ("AVX512", False, True, "fp32"),
        ("AVX512", True, True, "bf16"),
        ("AVX2", False, True, "fp32"),
        ("DEFAULT", False, True, "bf16"),
        ("DEFAULT", False, False, "fp32"),
    ],
)
def test_bf16_only_where_the_processor_has_it(monkeypatch, capsys, capability, native, emulated, expected):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: native, raising=False)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False, raising=False)
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: emulated, raising=False)
    assert compute(Hardware(device="cpu", precision="bf16")).precision == expected
    assert capsys.readouterr().err.count("warning: cpu has no bf16 of its own") == (expected == "fp32")


def test_no_bf16_where_an_older_torch_cannot_tell(monkeypatch):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        monkeypatch.delattr(torch.cpu, name, raising=False)
    assert not hardware.has_bf16(torch.device("cpu"))


def test_a_gpu_computes_fp32_in_full(monkeypatch):
    before = torch.backends.cudnn.allow_tf32, torch.get_float32_matmul_precision()
    monkeypatch.setattr(torch, "empty", lambda *_, **__: None)
    try:
        torch.backends.cudnn.allow_tf32 = True
        torch.set_float32_matmul_precision("high")
        compute(Hardware(device="cuda"))
        assert (torch.backends.cudnn.allow_tf32, torch.get_float32_matmul_precision()) == (False, "highest")
    finally:
        torch.backends.cudnn.allow_tf32 = before[0]
        torch.set_float32_matmul_precision(before[1])


@pytest.mark.parametrize("native", [False, True])
def test_auto_is_bf16_for_training_where_the_processor_has_it(monkeypatch, capsys, native):
    monkeypatch.setattr(hardware, "has_bf16", lambda device: native)
    assert compute(Hardware(device="cpu"), training=True).precision == ("bf16" if native else "fp32")
    assert compute(Hardware(device="cpu")).precision == "fp32", "answers must not depend on the processor"
    assert compute(Hardware(device="cpu", precision="fp32"), training=True).precision == "fp32"
    assert capsys.readouterr().err == "", "auto is a choice, not a disappointment"


def test_auto_on_each_kind_of_device(monkeypatch):
    monkeypatch.setattr(torch, "empty", lambda *_, **__: None)
    monkeypatch.setattr(hardware, "has_bf16", lambda device: True)
    before = torch.backends.cudnn.allow_tf32
    try:
        found = {name: compute(Hardware(device=name), training=True) for name in ("cpu", "cuda", "mps")}
    finally:
        torch.backends.cudnn.allow_tf32 = before
    assert {name: (one.precision, one.channels_last) for name, one in found.items()} == {
        "cpu": ("bf16", True),
        "cuda": ("bf16", True),
        "mps": ("fp32", False),
    }
    asked = Hardware(device="mps", precision="bf16", channels_last=True)
    assert compute(asked).precision == "bf16"
    assert compute(asked).channels_last
    assert not compute(Hardware(device="cpu", channels_last=False)).channels_last


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_run_goes_on_as_it_was_started(monkeypatch, precision):
    monkeypatch.setattr(hardware, "has_bf16", lambda device: True)
    threads = torch.get_num_threads()
    started = {"precision": precision, "channels_last": False, "threads": threads + 1}
    try:
        found = recorded(Hardware(device="cpu"), started)
        assert (found.precision, found.channels_last) == (precision, False)
        assert torch.get_num_threads() == threads + 1
        recorded(Hardware(device="cpu", threads=threads), started)
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize(("device", "told"), [("cuda:0", True), ("mps", True), ("cpu", False), (None, False)])
def test_a_run_that_goes_on_on_another_kind_of_device_is_told(capsys, device, told):
    started = {"precision": "fp32", "channels_last": False, "threads": torch.get_num_threads()}
    recorded(Hardware(device="cpu"), started | ({"device": device} if device else {}))
    warning = f"warning: this run was computed on {device} and goes on on cpu: it will not end to the bit"
    assert (warning in capsys.readouterr().err) == told


def test_a_run_in_bf16_does_not_go_on_without(monkeypatch):
    monkeypatch.setattr(hardware, "has_bf16", lambda device: False)
    started = {"precision": "bf16", "channels_last": True, "threads": torch.get_num_threads()}
    with pytest.raises(RunError, match="computes in bf16, and cpu here has none"):
        recorded(Hardware(device="cpu"), started)


def test_one_thread_for_a_while():
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        with hardware.one_thread():
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


KEEPING = """
import resource
import torch
from fxcli.model import hardware
from fxcli.recipe.schema import Hardware

hardware.compute(Hardware(device="cpu"), training=True)

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(64 << 20, dtype=torch.uint8)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

assert min(faults() for _ in range(50)) < 1000, "of 16384 pages"
hardware.held.give_back()
assert faults() < 1000, "it is not time yet"
hardware.held.give_back(at_once=True)
assert faults() > 10_000
assert min(faults() for _ in range(9)) < 1000
now = hardware.time.monotonic()
hardware.time.monotonic = lambda: now + 1e4
hardware.held.give_back()
assert faults() > 10_000
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library, which is left as it is")
def test_training_keeps_its_memory():
    """Blocks as large as a layer's output come from the heap, and cost no page faults once they were there.

    In a process of its own: where memory was refused once, glibc takes it from elsewhere.
    """
    done = subprocess.run([sys.executable, "-c", KEEPING], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


FORKING = """
import torch
from fxcli.data import dataset
from fxcli.model import hardware
from fxcli.recipe.schema import Hardware

class Own:
    def __getitem__(self, _):
        text = open("/proc/self/status", encoding="ascii").read()
        return int(text.partition("VmRSS:")[2].split()[0]) // 1024

def workers_mib():
    batches = dataset.Batches(2, 1, seed=0)
    return max(dataset.begun(dataset.loader(Own(), batches, workers=1, join=lambda items: items[0])))

hardware.compute(Hardware(device="cpu"), training=True)
clean = workers_mib()
torch.ones(512 << 20, dtype=torch.uint8)
assert workers_mib() > clean + 400, "what is free is kept by who is forked"
hardware.held.give_back(at_once=True)
assert workers_mib() < clean + 100
"""


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library, which is left as it is")
@pytest.mark.skipif(multiprocessing.get_start_method() != "fork", reason="a process that starts anew keeps nothing")
def test_what_is_given_back_is_not_kept_by_decoding_processes():
    done = subprocess.run([sys.executable, "-c", FORKING], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_another_c_library_is_left_as_it_is(monkeypatch):
    monkeypatch.setattr(hardware.ctypes, "CDLL", lambda name: object())
    other = hardware._Held()
    other.start()
    other.give_back()


def test_other_systems_keep_their_allocator(monkeypatch):
    monkeypatch.setattr(hardware.sys, "platform", "darwin")
    monkeypatch.setattr(hardware.ctypes, "CDLL", None)
    other = hardware._Held()
    other.start()
    other.give_back()
