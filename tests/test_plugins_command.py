"""`fx plugins`: what it tells of plugins and hooks; those of strangers are in test_third_party."""

import json

from typer.testing import CliRunner

from fxcli.cli import app
from fxcli.zoo.checks import HOOKS


def test_every_hook_is_told_with_what_it_is_for_and_who_implements_it():
    done = CliRunner().invoke(app, ["plugins", "--json"])
    assert done.exit_code == 0, done.stderr
    hooks = {each["name"]: each for each in json.loads(done.stdout)["hooks"]}
    assert tuple(hooks) == HOOKS
    # Other tests may have registered a demo in this process.
    assert {"fx", "efficientnet", "simclr", "timm"} <= set(hooks["fx_register_backbones"]["plugins"])
    assert hooks["fx_register_pretrainers"]["plugins"] == ["simclr"]
    assert hooks["fx_register_detectors"]["about"].startswith("Called once at start: pass each DetectorSpec")


def test_the_tables_have_them_too():
    shown = CliRunner().invoke(app, ["plugins"]).stdout
    assert "Called when training logs" in shown
    assert "timm:<name>" in shown
