"""Model files and resume states: every bit comes back, and nothing else is taken for one."""

import json
import os
import pickle
import struct
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from fxcli.console import INTENDED_USE
from fxcli.errors import ModelFileError
from fxcli.run import checkpoint
from fxcli.run.checkpoint import load_model_file, load_state, read_header, save_model_file, save_state

FILE = Path("model.safetensors")
HEADER = {"classes": ["a", "ü"], "preprocessing": {"mean": [0.1, 0.2, 0.3]}, "epoch": 3, "none": None}


def tensors():
    torch.manual_seed(0)
    base = torch.randn(4, 6)
    return {
        "float": base,
        "view": base[1:3],
        "transposed": base.t(),
        "channels_last": torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
        "bf16": torch.randn(7).to(torch.bfloat16),
        "double": torch.tensor([1 / 3, float("inf"), -0.0, 5e-324], dtype=torch.float64),
        "nan": torch.tensor([float("nan"), 1.0]),
        "count": torch.tensor(12345678901),
        "flags": torch.tensor([True, False]),
        "bytes": torch.arange(256, dtype=torch.uint8),
        "empty": torch.zeros(0, 3),
        "learnt": torch.nn.Parameter(torch.ones(2)),
    }


def bits(tensor):
    return tensor.dtype, tuple(tensor.shape), tensor.detach().contiguous().reshape(-1).view(torch.uint8).tolist()


@pytest.mark.parametrize(("save", "load"), [(save_model_file, load_model_file), (save_state, load_state)])
def test_round_trip_of_every_bit(save, load):
    save(FILE, tensors(), HEADER)
    found, header = load(FILE)
    assert found.keys() == tensors().keys()
    for name, tensor in tensors().items():
        assert bits(found[name]) == bits(tensor), name
    assert {key: header[key] for key in HEADER} == HEADER
    assert os.listdir() == [FILE.name]


def test_saving_again_gives_the_same_bytes():
    save_model_file(FILE, tensors(), HEADER)
    save_model_file(Path("again.safetensors"), tensors(), HEADER)
    assert Path("again.safetensors").read_bytes() == FILE.read_bytes()


def test_header_says_what_the_file_is():
    save_model_file(FILE, {}, {})
    assert read_header(FILE) == {"format": 1, "kind": "model", "intended_use": INTENDED_USE}
    save_state(FILE, {}, {})
    assert read_header(FILE) == {"format": 1, "kind": "state"}


def test_header_is_read_without_torch():
    save_model_file(FILE, tensors(), HEADER)
    code = (
        "import sys, pathlib; from fxcli.run.checkpoint import read_header;"
        "print(read_header(pathlib.Path(sys.argv[1]))['classes'][1]);"
        "sys.exit(any(name in sys.modules for name in ('torch', 'numpy', 'safetensors')))"
    )
    done = subprocess.run(
        [sys.executable, "-X", "utf8", "-c", code, str(FILE)], capture_output=True, text=True, encoding="utf-8"
    )
    assert (done.returncode, done.stdout.strip()) == (0, "ü"), done.stderr


def test_header_is_read_without_the_weights():
    save_model_file(FILE, {"large": torch.zeros(1000)}, HEADER)
    FILE.write_bytes(FILE.read_bytes()[:-4000])
    assert read_header(FILE)["epoch"] == 3
    with pytest.raises(ModelFileError, match="damaged: "):
        load_model_file(FILE)


def test_failure_keeps_the_old_file():
    save_model_file(FILE, {}, {"epoch": 1})
    with pytest.raises(ValueError, match="JSON compliant"):
        save_model_file(FILE, {}, {"epoch": float("nan")})
    assert read_header(FILE)["epoch"] == 1
    assert os.listdir() == [FILE.name]


def test_other_kind():
    save_state(FILE, {}, {})
    with pytest.raises(ModelFileError, match="this is a state file, not a model file"):
        load_model_file(FILE)
    save_model_file(FILE, {}, {})
    with pytest.raises(ModelFileError, match="this is a model file, not a state file"):
        load_state(FILE)


def test_other_format(monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "FORMAT", 2)
        save_model_file(FILE, {}, {})
    with pytest.raises(ModelFileError, match=r"another version of fx \(format 2, this one reads 1\)"):
        load_model_file(FILE)


def with_header(header, metadata=True):
    """A file with a safetensors header of any JSON."""
    values = {"__metadata__": {"fx": header}} if metadata else header
    raw = json.dumps(values).encode()
    return struct.pack("<Q", len(raw)) + raw


def written(data):
    FILE.write_bytes(data)
    return FILE


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"1234",
        b"not a model file at all",
        pickle.dumps({"weights": [1, 2, 3]}),
        struct.pack("<Q", 1000) + b"{}",
        struct.pack("<Q", 2) + b"{}",
        struct.pack("<Q", 4) + b"\xff\xfe\xfd\xfc",
        struct.pack("<Q", 200_000) + b"[" * 200_000,
        with_header([], metadata=False),
        with_header({"__metadata__": 3}, metadata=False),
        with_header({"__metadata__": {"format": "pt"}}, metadata=False),
        with_header(3),
        with_header("{"),
        with_header("[]"),
        with_header("{}"),
        with_header("null"),
        with_header('"text"'),
    ],
)
def test_what_is_none_is_refused(data):
    for load in (read_header, load_model_file, load_state):
        with pytest.raises(ModelFileError) as caught:
            load(written(data))
        assert caught.value.exit_code == 6
        assert str(caught.value).startswith(f"{FILE}: not a model file of fx")


def test_huge_header_is_not_read():
    with pytest.raises(ModelFileError, match="its header is too large"):
        read_header(written(struct.pack("<Q", 1 << 40) + b"{}"))


def test_safetensors_of_others_are_refused():
    save_file({"weight": torch.ones(2)}, FILE)
    with pytest.raises(ModelFileError, match="not a model file of fx") as caught:
        load_model_file(FILE)
    assert "model.safetensors of a run" in caught.value.hint


def test_absent():
    with pytest.raises(ModelFileError, match=r"cannot be read: No such file"):
        load_model_file(FILE)
    with pytest.raises(ModelFileError, match=r"cannot be read: "):
        read_header(Path())


def test_a_damaged_header_is_refused():
    save_model_file(FILE, {"a": torch.arange(8.0)}, {})
    data = bytearray(FILE.read_bytes())
    start = struct.unpack("<Q", data[:8])[0] + 8
    for place in range(8, start):
        damaged = bytearray(data)
        damaged[place] = 0
        with pytest.raises(ModelFileError):
            load_model_file(written(damaged))


def test_every_changed_bit_of_weights_and_header_is_refused():
    save_state(FILE, {"a": torch.arange(4.0), "b": torch.tensor([True, False])}, {"classes": ["ab"]})
    data = bytearray(FILE.read_bytes())
    start = struct.unpack("<Q", data[:8])[0] + 8
    for place in (data.index(b"ab"), *range(start, len(data))):
        damaged = bytearray(data)
        damaged[place] ^= 1
        with pytest.raises(ModelFileError, match="damaged, or changed since it was written"):
            load_state(written(damaged))
    assert load_state(written(data))[1]["classes"] == ["ab"]


def test_a_file_of_an_older_fx_has_no_hash_and_is_read():
    header = {"format": 1, "kind": "model", "epoch": 3}
    save_file({"a": torch.ones(2)}, FILE, metadata={"fx": json.dumps(header)})
    assert load_model_file(FILE)[1] == header


def test_a_header_that_no_file_could_have_got_is_damage():
    header = {"format": 1, "kind": "model", "epoch": float("nan"), "content_sha256": "0"}
    save_file({"a": torch.ones(2)}, FILE, metadata={"fx": json.dumps(header)})
    with pytest.raises(ModelFileError, match="damaged"):
        load_model_file(FILE)
