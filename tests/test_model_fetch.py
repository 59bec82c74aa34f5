"""Files of weights without a net: the cache of Hugging Face's programs, and how soon it is said that there is none."""

import functools
import http.client
import http.server
import shutil
import socket
import threading
import time

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import save_file
from torch import nn

from fxcli import BackboneSpec, Stage, WeightSource
from fxcli.errors import WeightsUnavailable
from fxcli.model import fetch, init

HUB = "https://huggingface.co/timm/tiny.a1_in1k/resolve/main/model.safetensors"


def spec_with(**source):
    stages = (Stage(name="all", modules=("",), stride=1, channels=4),)
    return BackboneSpec(name="tiny", build=None, num_features=4, stages=stages, weights={"a": WeightSource(**source)})


def load(**source):
    module = nn.Conv2d(3, 4, 2)
    init.initialise(spec_with(**source), module, "a")
    return module


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """An empty cache of the hub."""
    monkeypatch.setattr(constants, "HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hf" / "hub"))
    return tmp_path / "hf" / "hub"


@pytest.fixture
def state(tmp_path):
    torch.manual_seed(3)
    module = nn.Conv2d(3, 4, 2)
    save_file(module.state_dict(), tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors"


@pytest.fixture
def in_hub(home, state):
    """The file as hf download leaves it there: a link to what is called by its hash."""
    folder = home / "models--timm--tiny.a1_in1k"
    snapshot = folder / "snapshots" / "0123abcd" / "model.safetensors"
    for path in (folder / "refs", folder / "blobs", snapshot.parent):
        path.mkdir(parents=True)
    (folder / "refs" / "main").write_text("0123abcd")
    shutil.copy(state, folder / "blobs" / "feed")
    snapshot.symlink_to("../../blobs/feed")
    return snapshot


@pytest.fixture
def no_net(monkeypatch):
    def download(url, file):
        raise OSError("nobody answers")

    monkeypatch.setattr(fetch, "download", download)


def test_files_of_one_name_from_two_places_are_kept_apart():
    hub = "https://huggingface.co/timm/{}/resolve/main/model.safetensors"
    assert fetch.place(hub.format("a")) != fetch.place(hub.format("b"))
    assert ":" not in fetch.place("http://127.0.0.1:80/a.pth").name


def test_what_is_in_the_cache_of_the_hub_is_not_downloaded(in_hub, state, no_net):
    assert init.at_hand(spec_with(url=HUB).weights["a"]) is None
    expected = torch.manual_seed(3) and nn.Conv2d(3, 4, 2).weight
    assert torch.equal(load(url=HUB).weight, expected)
    assert not fetch.place(HUB).exists()


def test_a_file_of_others_is_refused_but_stays(in_hub, no_net):
    with pytest.raises(WeightsUnavailable, match="is not the file that was published") as caught:
        load(url=HUB, sha256="0" * 8)
    assert f"delete {in_hub}" in str(caught.value)
    assert in_hub.exists()


def test_what_fx_has_itself_comes_first(in_hub, state, no_net):
    own = fetch.place(HUB)
    own.parent.mkdir(parents=True)
    shutil.copy(state, own)
    assert fetch.at_hand(HUB) == own
    own.unlink()
    assert fetch.at_hand(HUB) == in_hub
    in_hub.unlink()
    assert fetch.at_hand(HUB) is None


def test_without_a_net_the_error_names_every_way_out(no_net, home):
    with pytest.raises(WeightsUnavailable) as caught:
        load(url=HUB)
    told = str(caught.value)
    assert f"weights 'a' of tiny cannot be downloaded from {HUB}: nobody answers" in told
    assert f"put the file by hand at {fetch.place(HUB)} (below FX_CACHE_DIR)" in told
    assert "'hf download timm/tiny.a1_in1k model.safetensors'" in told
    assert f"HF_HOME; here {home.parent}" in told
    assert "model.init=random" in told
    assert caught.value.exit_code == 7


def test_offline_by_decree_asks_nobody(monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(socket, "create_connection", None)
    with pytest.raises(WeightsUnavailable, match="HF_HUB_OFFLINE is set, so that nothing is asked of the hub"):
        load(url=HUB)


def test_a_mirror_of_the_hub_is_asked_in_its_place(tmp_path, monkeypatch, state):
    file = tmp_path / "mirror" / "timm" / "tiny.a1_in1k" / "resolve" / "main" / "model.safetensors"
    file.parent.mkdir(parents=True)
    shutil.copy(state, file)
    handler = functools.partial(Quiet, directory=str(tmp_path / "mirror"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as served:
        threading.Thread(target=served.serve_forever, args=(0.01,), daemon=True).start()
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{served.server_address[1]}")
        assert load(url=HUB).weight.shape == (4, 3, 2, 2)
        served.shutdown()
    assert fetch.place(HUB).is_file(), "it is kept by its own address"
    fetch.place(HUB).unlink()
    with pytest.raises(WeightsUnavailable, match=f"cannot be downloaded from {constants.ENDPOINT}/"):
        load(url=HUB)


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.mark.parametrize("accepts", [True, False])
def test_a_net_that_swallows_everything_is_given_up_within_seconds(monkeypatch, accepts):
    """A server that takes a connection and says nothing; and one whose queue is full, which does not even take it."""
    monkeypatch.setattr(fetch, "CONNECT_S", 0.3)
    waiting = []
    with socket.create_server(("127.0.0.1", 0), backlog=8 if accepts else 0) as silent:
        address = silent.getsockname()
        if not accepts:
            for _ in range(3):
                waiting.append(socket.socket())
                waiting[-1].setblocking(False)
                waiting[-1].connect_ex(address)
        before = time.monotonic()
        with pytest.raises(WeightsUnavailable, match="timed out"):
            load(url=f"https://127.0.0.1:{address[1]}/a.safetensors")
        assert time.monotonic() - before < 5
    for each in waiting:
        each.close()


def test_a_slow_piece_of_a_file_has_longer(monkeypatch):
    told = []
    monkeypatch.setattr(
        http.client.HTTPSConnection, "connect", lambda self: told.append(self.timeout) or setattr(self, "sock", Line())
    )

    class Line:
        settimeout = staticmethod(told.append)

    fetch._Connection("127.0.0.1", timeout=99).connect()
    assert told == [fetch.CONNECT_S, fetch.TIMEOUT_S]
