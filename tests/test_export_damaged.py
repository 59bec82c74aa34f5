"""Exported files that were damaged, or made to do harm: each is refused, and the reason told."""

import zipfile
from pathlib import Path

import pytest
from exports import fx, zeroed

from fxcli.testing import tiny_dataset

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("openvino")

# The exporters and runtimes warn of their own parts.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")


@pytest.fixture
def raw():
    return tiny_dataset(Path("raw"), per_class=4)


class TestHostileFiles:
    @pytest.fixture
    def openvino_file(self, trained):
        assert fx("export", "openvino", trained.path, "--out", "m.openvino").exit_code == 0
        with zipfile.ZipFile("m.openvino") as packed:
            return {name: packed.read(name) for name in packed.namelist()}

    @pytest.fixture
    def onnx_file(self, trained):
        assert fx("export", "onnx", trained.path, "--out", "m.onnx").exit_code == 0
        return onnx.load("m.onnx")

    @pytest.mark.parametrize("runtime", ["onnx", "openvino"])
    def test_weights_that_were_damaged(self, onnx_file, openvino_file, raw, runtime):
        file = Path(f"m.{runtime}")
        file.write_bytes(zeroed(file.read_bytes()))
        self.refused(raw, file, "damaged")

    def test_a_header_that_was_damaged(self, onnx_file, raw):
        file = Path("m.onnx")
        file.write_bytes(file.read_bytes().replace(b'"class_0"', b'"class_9"'))
        self.refused(raw, file, "damaged, or changed since it was exported")

    def test_a_file_of_an_older_fx(self, onnx_file, raw):
        del onnx_file.metadata_props[1:]
        onnx.save(onnx_file, "old.onnx")
        assert fx("predict", raw, "--model", "old.onnx").exit_code == 0

    def refused(self, raw, file, words):
        done = fx("predict", raw, "--model", file)
        assert (done.exit_code, words in done.stderr) == (6, True), done.output

    def pack(self, entries, compression=zipfile.ZIP_STORED):
        with zipfile.ZipFile("bad.openvino", "w", compression) as packed:
            for name, content in entries.items():
                packed.writestr(name, content)
        return "bad.openvino"

    @pytest.mark.slow
    def test_openvino(self, openvino_file, raw):
        xml, header = openvino_file["model.xml"], openvino_file["fx.json"]
        for changed, words in (
            (
                {"model.xml": xml.replace(b'version="opset1"', b'version="extension"')},
                "operator of its own: extension.",
            ),
            ({"model.xml": b"<!DOCTYPE x [<!ENTITY a 'b'>]>" + xml}, "declares entities"),
            ({"model.xml": xml.replace(b"<net ", b'<net xmlns="x" ')}, "not as OpenVINO writes it"),
            ({"model.xml": xml.decode().encode("utf-16")}, "damaged"),
            ({"model.xml": b"<net/>"}, "not as OpenVINO writes it"),
            ({"fx.json": header.replace(b'"class_0", ', b"")}, "for 2 classes"),
            ({"fx.json": header.replace(b'"precision": "fp32"', b'"precision": "fp9"')}, "the header is damaged"),
            (
                {"fx.json": header.replace(b'"precision"', b'"members": 5, "precision"')},
                "the header is damaged: members",
            ),
            ({"model.xml": xml[:200]}, "damaged"),
            ({"fx.json": b"{}"}, "the header is damaged"),
            ({"fx.json": header.replace(b'"class_0"', b'"=class"')}, "the header is damaged: classes"),
            ({"fx.json": header.replace(b'"class_0"', b'"class_1"')}, "the header is damaged: classes"),
            ({"fx.json": b"[" * 100_000}, "the header is damaged"),
            ({"../evil": b""}, "not an exported model"),
            ({"model.bin": b""}, "refuses it"),
        ):
            self.refused(raw, self.pack(openvino_file | changed), words)
        self.refused(raw, self.pack(openvino_file, zipfile.ZIP_DEFLATED), "packed in another way")
        # A member that claims to be longer than the file is.
        packed = Path(self.pack(openvino_file)).read_bytes()
        place = packed.rindex(b"PK\x01\x02", 0, packed.rindex(b"model.bin"))
        Path("long.openvino").write_bytes(
            packed[: place + 20] + (1 << 24).to_bytes(4, "little") * 2 + packed[place + 28 :]
        )
        self.refused(raw, "long.openvino", "damaged")
        whole = Path("m.openvino").read_bytes()
        Path("cut.openvino").write_bytes(whole[: len(whole) // 2])
        self.refused(raw, "cut.openvino", "damaged")

    def test_onnx(self, onnx_file, raw):
        del onnx_file.metadata_props[1:]  # who makes such a file can make its hash, too
        foreign, inner, outside, bare = (onnx.ModelProto() for _ in range(4))
        for each in (foreign, inner, outside, bare):
            each.CopyFrom(onnx_file)
        foreign.graph.node[0].domain = "evil.ops"
        branch = onnx.helper.make_graph([onnx.helper.make_node("X", [], [], domain="evil.ops")], "g", [], [])
        inner.graph.node.append(onnx.helper.make_node("If", ["c"], ["d"], then_branch=branch, else_branch=branch))
        tensor = outside.graph.initializer[0]
        tensor.data_location = onnx.TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value="/etc/passwd")
        del bare.metadata_props[:]
        renamed, untyped = onnx.ModelProto(), onnx.ModelProto()
        renamed.CopyFrom(onnx_file)
        untyped.CopyFrom(onnx_file)
        renamed.graph.output[0].name = "other"
        untyped.graph.node[0].op_type = "NoSuchOperator"
        for model, words in (
            (renamed, "onnxruntime refuses it"),
            (untyped, "onnxruntime refuses it"),
            (foreign, "operators of its own: evil.ops"),
            (inner, "operators of its own: evil.ops"),
            (outside, "its weights lie in another file"),
            (bare, "not exported by fx"),
        ):
            Path("bad.onnx").write_bytes(model.SerializeToString())
            self.refused(raw, "bad.onnx", words)
        Path("bad.onnx").write_bytes(b"\x08 nothing")
        self.refused(raw, "bad.onnx", "damaged")
