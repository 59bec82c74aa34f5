"""fx report of runs that are stopped, damaged or hostile: told, and the rest is shown."""

import json
import re
import shutil
import sys
from pathlib import Path

import pytest
from reported import NAME, copying, evaluation, fx, page, report, well

from fxcli.report import build
from fxcli.report.kept import kept


@pytest.fixture
def own(reported_runs):
    return copying(reported_runs)


@pytest.mark.slow
def test_what_is_missing_is_told_with_the_command_that_makes_it(own):
    run = own("one")
    shutil.rmtree(run.path / "evaluation")
    (run.path / "predictions" / "val.csv").unlink()
    done = well("report", run.path)
    text = page(run.path / "report.html").text
    for command in (f"fx evaluate {run.path}", f"fx evaluate {run.path} --split val"):
        assert command in text
        assert f"it would tell more after: {command}" in done.stderr
    assert "validation part, at the end of training; without intervals" in text
    assert json.loads(well("report", run.path, "--json", "--quiet").stdout) == {
        "report": str(run.path / "report.html"),
        "runs": [str(run.path)],
        "missing": [f"fx evaluate {run.path}", f"fx evaluate {run.path} --split val"],
    }


@pytest.mark.slow
def test_pictures_that_are_gone_are_told(own, prepared):
    run = own("one")
    shutil.copytree(prepared, "gone")
    run.update(manifest=str(Path("gone/manifest.csv").absolute()))
    shutil.rmtree("gone/pictures/val")
    found = report(run.path)
    assert "No picture can be shown: 12 of 48 pictures are not there" in found.text
    assert "Model card" in found.text


@pytest.mark.slow
def test_a_picture_that_cannot_be_read_leaves_the_others(own, prepared):
    run = own("one")
    shutil.copytree(prepared, "spoilt")
    run.update(manifest=str(Path("spoilt/manifest.csv").absolute()))
    files = sorted(Path("spoilt/pictures/val").rglob("*.png"))
    for file in files[:-1]:
        file.write_bytes(b"no picture")
    found = report(run.path, "--pictures", 12)
    assert "No picture can be shown" not in found.text
    assert files[0].name in found.text or "class_0/" in found.text
    assert "Right answers" in found.text


@pytest.mark.slow
def test_a_damaged_part_is_told_and_the_rest_is_shown(own):
    run = own("folds")
    (run.path / "folds/1/run.json").write_text("{", encoding="utf-8")
    found = report(run.path, "--pictures", 0)
    assert "folds/1 cannot be read" in found.text
    assert "fold 0: finished" in found.text


def test_a_run_that_was_stopped(own):
    run = own("one")
    run.update(status="interrupted", figures=None)
    run.model_file.unlink()
    for folder in ("evaluation", "predictions"):
        shutil.rmtree(run.path / folder)
    run.metrics_file.write_text(run.metrics_file.read_text().splitlines()[0] + '\n{"step": 6, "epo')
    found = report(run.path)
    assert f"This run was stopped before its end. fx train --resume {run.path}" in found.text
    assert [row[0] for row in found.table("epoch")] == ["1"]
    assert "There is no finished model to be measured." in found.text
    assert f"that it had not seen are kept. fx train --resume {run.path}" in found.text


def test_a_run_that_was_killed_before_its_first_epoch(own):
    run = own("one")
    shutil.rmtree(run.path / "evaluation")
    for file in ("metrics.jsonl", "model.safetensors", "manifest.csv", "fingerprint.json", "recipe.yaml"):
        (run.path / file).unlink()
    run.update(status="running", figures=None, epoch=None, best=None)
    found = report(run.path)
    assert "This run was killed before its end." in found.text
    assert "No epoch is finished yet." in found.text
    assert "The run has no manifest" in found.text


@pytest.mark.slow
def test_a_run_that_failed_says_why(own):
    run = own("one")
    run.update(status="failed", error="the loss is nan at step 3 <b>")
    assert "This run failed before its end: the loss is nan at step 3 <b>." in report(run.path, "--pictures", 0).text


@pytest.mark.slow
@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"figures": {"accuracy": 3}}', '{"figures": null, "n_failed": 0}'])
def test_damaged_evaluations_are_told_and_the_rest_is_shown(own, text):
    run = own("one")
    (run.path / "evaluation" / "test.json").write_text(text)
    found = report(run.path, "--pictures", 0)
    assert re.search(r"evaluation/test\.json (is damaged|cannot be read)", found.text)
    assert "Validation part" in found.text


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fingerprint.json", "recipe.yaml", "manifest.csv", "model.safetensors"])
def test_damaged_files_are_told_and_the_rest_is_shown(own, name):
    run = own("one")
    (run.path / name).write_bytes(b"\xff\xfe{" * 9)
    assert f"{name} cannot be read" in report(run.path, "--pictures", 0).text


@pytest.mark.slow
def test_figures_of_another_model_are_told(own, reported_runs):
    run = own("one")
    shutil.copy(reported_runs / "other" / "model.safetensors", run.model_file)
    assert "This was measured of another model file than the run has now." in report(run.path, "--pictures", 0).text


@pytest.mark.slow
def test_hostile_text_stays_text(own):
    run = own("one", NAME)
    evil = "<script>alert(1)</script><img src=x onerror=alert(1)>{{ 7 * 7 }}"
    run.update(argv=[evil], recipe=evil, error=evil, status="failed", versions={evil: evil}, init={"name": evil})
    file = run.path / "fingerprint.json"
    told = json.loads(file.read_text()) | {"name": evil, "licence": evil, "audit": {evil: 3}}
    file.write_text(json.dumps(told))
    lines = [
        json.loads(line) | {evil: 0.5, "phase": evil, "epoch": n}
        for n, line in enumerate(run.metrics_file.read_text().splitlines(), 1)
    ]
    run.metrics_file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    values = evaluation(run, "test") | {"by": {evil: {evil: {"n": 1, "n_groups": 1, "few": True, evil: None}}}}
    (run.path / "evaluation" / "test.json").write_text(json.dumps(values))
    (run.path / "evaluation" / f"{evil.replace('/', '')}.json").write_text(json.dumps(values))
    found = report(run.path, "--pictures", 2)
    text = (run.path / "report.html").read_text()
    assert "<script" not in text
    assert "onerror" not in {name for _, attributes in found.tags for name in attributes}
    assert evil in found.text
    assert f"Run {NAME}" in found.text


@pytest.mark.slow
def test_what_is_not_its_own_is_not_replaced(own):
    run = own("one")
    file = run.path / "report.html"
    well("report", run.path, "--pictures", 0)
    first = file.read_text()
    well("report", run.path, "--pictures", 0)
    file.write_text("<html>mine</html>")
    refused = fx("report", run.path, "--pictures", 0)
    assert refused.exit_code == 4
    assert "this file exists" in refused.stderr
    assert file.read_text() == "<html>mine</html>"
    well("report", run.path, "--pictures", 0, "--overwrite")
    assert file.read_text().splitlines()[:5] == first.splitlines()[:5]
    Path("notes.html").write_text(first)
    assert fx("report", run.path, "--pictures", 0, "--out", "notes.html").exit_code == 4
    well("report", run.path, "--pictures", 0, "--out", "notes.html", "--overwrite")
    well("report", run.path, "--pictures", 0, "--out", "new/folder/notes.html")


def test_a_place_that_cannot_be_written_is_told_before_the_work(own, monkeypatch):
    Path("taken").touch()
    monkeypatch.setattr(build, "build", None)
    done = fx("report", own("one").path, "--out", "taken/report.html")
    assert done.exit_code == 4, done.output
    assert "error: taken: cannot be written" in done.stderr


def test_wrong_use(own):
    run = own("one")
    several = fx("report", run.path, own("other").path)
    assert several.exit_code == 2
    assert "--out FILE.html" in several.stderr
    assert fx("report", run.path, "--out", "runs").exit_code == 2
    assert fx("report").exit_code == 2


def test_without_matplotlib(own, monkeypatch):
    run = own("one")
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    done = fx("report", run.path)
    assert done.exit_code == 7
    assert "python -m pip install 'fxcli[report]'" in done.stderr
    assert not (run.path / "report.html").exists()


RANGES = ({"value": "x", "low": None, "high": None}, {"value": 0.5, "low": "a", "high": "b"})
ODD = (*RANGES, None, True, 3, -1.5, 1e308, "x", [], [1], [[1], "a"], {}, {"a": 1}, {"a": {"b": [None]}})


@pytest.mark.slow
@pytest.mark.parametrize("name", ["run.json", "fingerprint.json", "evaluation/test.json", "metrics.jsonl"])
def test_odd_values_end_nothing(own, name, monkeypatch):
    from markupsafe import Markup

    from fxcli.report import build, figures

    run = own("one")
    # Drawing takes longer than all else, and gets the same numbers.
    for drawing in ("curves", "intervals", "reliability"):
        monkeypatch.setattr(figures, drawing, lambda *_, **__: Markup("<svg></svg>"))
    file = run.path / name
    values = json.loads(file.read_text().splitlines()[0] if name.endswith("l") else file.read_text())
    inner = [("figures", key) for key in values.get("figures", ()) if name.startswith("evaluation")]
    for number, key in enumerate(key for key in [*values, *inner] if key != "status"):
        # Each odd value is met by many keys, and each key by three of them.
        for odd in (ODD * 2)[number % len(ODD) :][:12:4]:
            if isinstance(key, tuple):
                changed = {**values, "figures": {**values["figures"], key[1]: odd}}
            else:
                changed = {**values, key: odd}
            file.write_text(json.dumps(changed) + "\n")
            assert "Model card" in build.build([kept(run)], 0).text, (key, odd)


@pytest.mark.slow
@pytest.mark.parametrize("odd", RANGES)
def test_an_interval_that_is_none_is_damage(own, odd):
    run = own("one")
    values = evaluation(run, "test")
    for name in ("accuracy", "balanced_accuracy", "auroc"):
        changed = {**values, "figures": {**values["figures"], name: odd}}
        (run.path / "evaluation/test.json").write_text(json.dumps(changed), encoding="utf-8")
        assert "Model card" in report(run.path, "--pictures", 0).text
    changed = {**values, "by": {"hospital": {}}}
    (run.path / "evaluation/test.json").write_text(json.dumps(changed), encoding="utf-8")
    assert "Model card" in report(run.path, "--pictures", 0).text
