"""Where a result comes from."""

import hashlib
import json
import os
import platform
import re
import sys
from importlib import metadata

import fxcli
from fxcli.run import provenance
from fxcli.zoo.plugins import Zoo, load_zoo


def test_now():
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", provenance.now())


def test_digest():
    assert provenance.digest("größe") == hashlib.sha256("größe".encode()).hexdigest()


def test_describe(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["fx", "train", "final"])
    found = provenance.describe(load_zoo())
    assert json.loads(json.dumps(found)) == found
    assert found["argv"] == ["train", "final"]
    assert found["fx_version"] == fxcli.__version__
    assert found["python"] == platform.python_version()
    assert found["versions"]["torch"] == metadata.version("torch")
    assert set(found["versions"]) == set(provenance.PACKAGES)
    assert found["hardware"]["cores"] == os.cpu_count()
    assert found["plugins"]["efficientnet"] == metadata.version("fxcli")


def test_packages_that_are_absent(monkeypatch):
    def absent(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", absent)
    assert set(provenance.describe(load_zoo())["versions"].values()) == {None}


def test_broken_plugins_took_no_part():
    zoo = load_zoo()
    broken = {plugin.name for plugin in zoo.plugins if plugin.status != "ok"}
    assert isinstance(zoo, Zoo)
    assert not broken & set(provenance.describe(zoo)["plugins"])
