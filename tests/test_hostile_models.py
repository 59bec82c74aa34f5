"""Model files that were made to do harm: they take neither memory nor time, and change no answer."""

import json
import struct
import time
from pathlib import Path

import pytest
from harmful import LIMIT_MIB, SOON_S, fx
from peaks import peak_of

from fxcli.errors import ModelFileError
from fxcli.inference.opened import open_model
from fxcli.model import classifier as models
from fxcli.run import checkpoint
from fxcli.zoo.plugins import load_zoo


@pytest.fixture
def soon():
    started = time.monotonic()
    yield
    assert time.monotonic() - started < SOON_S


@pytest.fixture
def whole(trained):
    """Header and data of a model file."""
    content = trained.model_file.read_bytes()
    (size,) = struct.unpack("<Q", content[:8])
    return json.loads(content[8 : 8 + size]), content[8 + size :]


def written(header, data, *, size=None):
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    file = Path("m.safetensors")
    file.write_bytes(struct.pack("<Q", len(raw) if size is None else size) + raw + data)
    return file


def changed(whole, **values):
    header, data = whole
    fx_header = json.loads(header["__metadata__"]["fx"]) | values
    # Whoever writes such a file writes a hash that fits it, or none.
    del fx_header["content_sha256"]
    return written(header | {"__metadata__": {"fx": json.dumps(fx_header)}}, data)


def unused(file, match):
    with pytest.raises(ModelFileError, match=match) as caught:
        open_model(str(file))
    assert len(str(caught.value)) < 2000


def test_the_file_that_is_changed_works_as_it_is(whole):
    open_model(str(changed(whole)))


def test_a_header_that_claims_to_be_huge(soon):
    for size in (1 << 40, (1 << 64) - 1, (8 << 20) + 1):
        unused(written(b"{}", b"", size=size), "header is too large")


@pytest.mark.parametrize("end", [1 << 45, (1 << 64) - 1, 1 << 70, -1])
def test_tensors_that_claim_to_be_huge(whole, end, soon):
    header, data = whole
    header["head.weight"] |= {"data_offsets": [0, end]}
    unused(written(header, data), "damaged|not a model file")


def test_tensors_that_overlap_or_have_another_shape(whole):
    header, data = whole
    place = header["head.bias"]["data_offsets"]
    for change in (
        {"data_offsets": header["head.weight"]["data_offsets"]},
        {"data_offsets": place[::-1]},
        {"shape": [1 << 40]},
        {"shape": [1 << 62, 1 << 62]},
        {"dtype": "F64"},
        {"dtype": "PICKLE"},
    ):
        unused(written(header | {"head.bias": header["head.bias"] | change}, data), "damaged")


def test_a_sparse_file_of_a_terabyte(whole, soon):
    """Its header says that it is one tensor, which no network has."""
    header, _ = whole
    header["head.weight"] = {"dtype": "U8", "shape": [1 << 40], "data_offsets": [0, 1 << 40]}
    file = written({key: header[key] for key in ("__metadata__", "head.weight")}, b"")
    with file.open("r+b") as handle:
        handle.truncate(file.stat().st_size + (1 << 40))
    # Where there is room for its addresses, it is not read; where there is none, that is told.
    with pytest.raises(ModelFileError, match=r"do not fit|damaged"):
        models.load(file, load_zoo())


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"batch_size": 1 << 40}, "batch_size"),
        ({"batch_size": -1}, "batch_size"),
        ({"batch_size": "many"}, "batch_size"),
        ({"batch_size": 1e300}, "batch_size"),
        ({"classes": [f"c{number}" for number in range(1000)]}, "head.weight is"),
        ({"classes": [f"c{number}" for number in range(1001)]}, "classes"),
        ({"classes": ["class_0", "class_0", "class_1"]}, "classes"),
        ({"classes": ["../a", "b", "c"]}, "classes"),
        ({"classes": "abc"}, "classes"),
        ({"classes": {"0": "a"}}, "classes"),
        ({"members": [{}] * 100_000}, "not of 100000 members"),
        ({"model": {"backbone": "demo_tiny", "options": {"width": 1 << 40}}}, "header is damaged|no longer as it was"),
    ],
)
def test_headers_that_ask_for_too_much(whole, values, message, soon):
    unused(changed(whole, **values), message)


def test_another_order_of_classes_is_another_order_of_answers(whole, trained, prepared):
    """Names and weights belong together: what is turned round in both answers the same."""
    tensors, header = checkpoint.load_model_file(trained.model_file)
    turned = {name: value.flip(0) if name.startswith("head.") else value for name, value in tensors.items()}
    own = {key: value for key, value in header.items() if key not in ("format", "kind")}
    own["uncertainty"] = None
    for name, parts, classes in (
        ("as.safetensors", tensors, header["classes"]),
        ("turned.safetensors", turned, header["classes"][::-1]),
    ):
        checkpoint.save_model_file(Path(name), parts, own | {"classes": classes})
    told = []
    for name in ("as.safetensors", "turned.safetensors"):
        done = fx("evaluate", name, "--data", prepared / "manifest.csv", "--json", "--quiet")
        assert done.exit_code == 0, done.output
        told.append(json.loads(done.stdout))
    assert told[0]["figures"]["accuracy"] == told[1]["figures"]["accuracy"]


@pytest.mark.slow
def test_a_header_as_deep_or_long_as_it_may_be(soon):
    room = (8 << 20) - 100
    for raw in (b'{"__metadata__":' + b"[" * room, b'{"a":[' + b"[]," * (room // 3) + b"0]}"):
        file = written(raw, b"")
        code = "from fxcli.run.checkpoint import read_header; read_header(Path(sys.argv[1]))"
        peak, said = peak_of(code, file)
        assert said.startswith("ModelFileError")
        assert peak < LIMIT_MIB
