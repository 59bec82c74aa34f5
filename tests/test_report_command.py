"""fx report: what a run holds, as one page that loads nothing; what it lacks, and which command makes it."""

import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import ModuleType

import pytest
from reported import check_harmless, fx, own_cache, page, recipe, well

from fxcli.data.manifest import read_manifest, write_manifest
from fxcli.evaluation.metrics import softmax
from fxcli.evaluation.predictions import read_labelled
from fxcli.evaluation.words import OVERALL, PER_CLASS, told
from fxcli.report import pictures
from fxcli.report.kept import kept
from fxcli.run import checkpoint
from fxcli.run.directory import Run
from fxcli.zoo.hookspecs import hookimpl

NAME = "b<i>&\"'$x$"


@pytest.fixture(scope="module")
def made(tmp_path_factory, demo_zoo, prepared, prepared_boxes):
    """Runs that were trained and measured once: one, other, folds, boxes, views."""
    root = tmp_path_factory.mktemp("reported")
    with own_cache(root):
        manifest = prepared / "manifest.csv"
        tiny = recipe(root / "tiny.yaml", manifest, "train: {epochs: 2, batch_size: 8}", "optim: {lr: 3e-3}")
        detect = recipe(
            root / "boxes.yaml",
            prepared_boxes / "manifest.csv",
            "detect: {options: {channels: 32, finest_stride: 4}}",
            "train: {epochs: 1, batch_size: 8}",
            task="detect",
        )
        views = recipe(
            root / "views.yaml", manifest, "pretrain: {method: simclr}", "train: {epochs: 2}", task="pretrain"
        )
        well("train", tiny, "--out", root / "one", "--quiet")
        well("train", tiny, "--out", root / "other", "--set", "seed=1", "--set", "optim.lr=1e-3", "--quiet")
        well("train", tiny, "--out", root / "folds", "--folds", 2, "--set", "train.epochs=1", "--quiet")
        well("train", detect, "--out", root / "boxes", "--quiet")
        well("train", views, "--out", root / "views", "--quiet")
        for name in ("one", "other"):
            well("evaluate", root / name, "--by", "group", "--quiet")
            well("evaluate", root / name, "--split", "val", "--quiet")
        well("evaluate", root / "folds", "--split", "oof", "--quiet")
        well("evaluate", root / "folds", "--quiet")
        well("evaluate", root / "boxes", "--quiet")
    return root


@pytest.fixture
def own(made):
    """Copies a run into runs/, for a test to change."""

    def copy(name, to=None):
        shutil.copytree(made / name, Path("runs") / (to or name))
        return Run(Path("runs") / (to or name))

    return copy


def report(*arguments):
    done = well("report", *arguments)
    file = Path(done.stdout.strip())
    found = page(file)
    check_harmless(file.read_text(encoding="utf-8"), found)
    return found


def report_without_torch(*arguments):
    code = (
        "import sys\nfrom fxcli.cli import app\n"
        "try:\n    app(sys.argv[1:])\nexcept SystemExit as end:\n    assert not end.code\n"
        "assert not {'torch', 'torchvision', 'timm'} & set(sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "report", *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return Path(done.stdout.strip())


def evaluation(run, name):
    return json.loads((run.path / "evaluation" / f"{name}.json").read_text())


@pytest.mark.slow
def test_figures_are_those_that_were_measured(own):
    run = own("one")
    found = report(run.path, "--pictures", 0)
    for name in ("test", "val"):
        figures = evaluation(run, name)["figures"]
        shown = [rows for rows in found.cells if rows and rows[0][:2] == ["figure", "value [95 % interval]"]]
        wanted = [[key.replace("_", " "), told(figures[key])] for key in OVERALL]
        assert wanted in [rows[1:] for rows in shown]
        each = [rows[1:] for rows in found.cells if rows and rows[0][:2] == ["class", "precision"]]
        wanted = [
            [key, *(told(value[c]) for c in PER_CLASS), str(value["support"]), str(value["n_groups"])]
            for key, value in figures["per_class"].items()
        ]
        assert wanted in each
        counts = [[row[1:] for row in rows[1:]] for rows in found.cells if rows and rows[0][0] == "true class"]
        assert [list(map(str, row)) for row in figures["confusion"]] in counts
    bins = evaluation(run, "test")["reliability"]
    rows = found.table("probability of the answer")
    assert rows == [[f"{b['confidence']:.3f}", told(b["accuracy"]), str(b["n"])] for b in bins]
    curve = evaluation(run, "test")["risk_coverage"]
    risks = [row[1] for row in found.table("answered", "error among them")]
    assert risks == [f"{100 * risk:.1f} %" for risk in curve["risk"]]
    assert f"the area below is {told(curve['aurc'])}" in found.text
    assert "by group" in found.text


@pytest.mark.slow
def test_what_was_run_and_on_which_data(own):
    run = own("one")
    run.update(versions={"timm": "1.0.31"}, plugins={"timm": "0.1.0"})
    found, info = report(run.path, "--pictures", 0), run.info()
    assert "timm 1.0.31" in found.text
    assert "plugin timm 0.1.0" in found.text
    for part in ("tiny", "demo_tiny", info["recipe_sha256"], info["manifest_sha256"], "2 of 2", "finished"):
        assert part in found.text
    assert found.table("class", "train", "val", "test") == [
        *([f"class_{n}", "8", "4", "4"] for n in range(3)),
        ["all", "24", "12", "12"],
    ]
    assert "max_minutes: null" in found.text, "the whole recipe"
    assert f"fx predict FOLDER --model {run.path}" in found.text
    assert "Research use only; not a medical device." in found.text
    lines = [json.loads(line) for line in run.metrics_file.read_text().splitlines()]
    rows = found.table("epoch", "train loss")
    assert [row[:2] for row in rows] == [[str(line["epoch"]), f"{line['train_loss']:.4g}"] for line in lines]


@pytest.mark.slow
def test_sections_have_headings_that_are_linked(own):
    found = report(own("one").path, "--pictures", 0)
    titles = ["What was run", "Data and audit", "Learning curves", "Figures", "Model card"]
    links = [a["href"] for tag, a in found.tags if tag == "a" and a["href"].startswith("#s")]
    assert links[1:] == [f"#s{n}" for n in range(1, len(titles) + 1)]
    levels = [int(tag[1]) for tag, _ in found.tags if re.fullmatch(r"h\d", tag)]
    assert levels[0] == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
    figures = [a for tag, a in found.tags if tag == "svg"]
    assert figures
    assert all(a["role"] == "img" and len(a["aria-label"]) > 20 for a in figures)
    assert sum(tag == "summary" for tag, _ in found.tags) >= len(figures), "a table beside each"


@pytest.mark.slow
def test_a_report_is_no_look_at_the_test_part(own, prepared):
    before = (prepared / "test_looks.jsonl").read_bytes()
    report(own("one").path)
    assert (prepared / "test_looks.jsonl").read_bytes() == before


@pytest.mark.slow
def test_without_pictures_torch_is_never_imported(own):
    run = own("folds")
    report_without_torch(run.path, "--pictures", "0")


@pytest.mark.slow
def test_what_a_run_started_from_is_told_without_asking_its_plugin(own):
    """The nets of timm: are known after torch and timm are imported alone."""
    run = own("one")
    run.update(init={"name": "imagenet", "reference": "https://example.org/net", "licence": "Apache-2.0"})
    file = run.path / "recipe.yaml"
    file.write_text(file.read_text().replace("backbone: demo_tiny", "backbone: timm:resnet18"))
    found = page(report_without_torch(run.path, "--pictures", "0"))
    assert "timm:resnet18" in found.text
    assert "imagenet weights (https://example.org/net; licence Apache-2.0)" in found.text


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
def test_pictures_are_the_surest_answers(own):
    run = own("one")
    found = report(run.path, "--pictures", 2)
    rows = [line.split(",") for line in (run.path / "predictions" / "val.csv").read_text().splitlines()]
    head, rows = rows[0], rows[1:]
    label, answer = head.index("label"), head.index("class")
    p = [max(float(row[head.index(f"p_class_{n}")]) for n in range(3)) for row in rows]
    for is_right in (True, False):
        own_rows = [(-at, row) for at, row in zip(p, rows, strict=True) if (row[label] == row[answer]) == is_right]
        for at, row in sorted(own_rows)[:1]:
            assert f"{row[answer]} {-at:.2f}" in found.text
    shown = [a for tag, a in found.tags if tag == "img"]
    assert all(a["src"].startswith("data:image/jpeg;base64,") and a["alt"] for a in shown)
    cards = sum(a["alt"] == "the picture" for a in shown)
    wrong = sum(row[label] != row[answer] for row in rows)
    assert cards == min(2, wrong) + min(2, len(rows) - wrong)
    # A right answer is drawn for one class, a wrong one for two.
    assert len(shown) - cards == cards + min(2, wrong)


@pytest.mark.slow
def test_pictures_have_the_probabilities_that_the_model_tells(own):
    run = own("folds")
    tensors, info = checkpoint.load_model_file(run.model_file)
    info["uncertainty"]["temperature"] = 7.0
    checkpoint.save_model_file(run.model_file, tensors, info)
    said, _ = read_labelled(run.oof_file.read_text(encoding="utf-8"))
    p = softmax(said.mean_logits / 7)
    surest = [p[(p.argmax(axis=1) == said.targets) == is_right].max() for is_right in (True, False)]
    found = report(run.path, "--pictures", 1)
    assert "at the model's temperature" in found.text
    shown = re.findall(r"class_\d (0\.\d\d)(?=, is|\s)", found.text)
    assert {f"{at:.2f}" for at in surest} <= set(shown)


@pytest.mark.slow
@pytest.mark.parametrize("hashes", [True, False])
def test_pictures_of_folds_are_drawn_by_networks_that_had_not_seen_them(own, monkeypatch, hashes):
    from fxcli.report import pictures

    run, seen = own("folds"), []
    for file in () if hashes else run.path.rglob("manifest.csv"):
        write_manifest(file, [replace(row, sha256="") for row in read_manifest(file, with_pictures=False).rows])
    drawn = pictures._views
    monkeypatch.setattr(
        pictures, "_views", lambda opened, paths, chosen: seen.append((opened, chosen)) or drawn(opened, paths, chosen)
    )
    found = report(run.path, "--pictures", 3)
    assert "drawn by the networks that had not seen the picture" in found.text
    held = {
        fold: {
            line.partition(",")[0]
            for line in (run.path / f"folds/{fold}/predictions/held_out.csv").read_text().splitlines()
        }
        for fold in (0, 1)
    }
    from fxcli.inference.opened import open_model

    for opened, chosen in seen:
        (member,) = opened.pipeline.engine.members
        fold = next(n for n in (0, 1) if {each.row.path for each in chosen} <= held[n])
        whole = open_model(str(run.model_file)).pipeline.engine.members[fold]
        for one, other in zip(member.state_dict().values(), whole.state_dict().values(), strict=True):
            assert one.equal(other)


def test_answers_of_other_classes_have_no_pictures(own):
    run = own("one")
    file = run.path / "predictions" / "val.csv"
    text = file.read_text(encoding="utf-8")
    for name in read_labelled(text)[1]:
        text = re.sub(rf"(,|_){name}\b", rf"\1other_{name}", text)
    file.write_text(text, encoding="utf-8")
    assert "No picture can be shown: its answers are of other classes than the model has." in report(run.path).text


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
def test_a_part_that_the_manifest_lacks_is_not_missing(own):
    run = own("one")
    (run.path / "evaluation" / "test.json").unlink()
    assert "The test part was not measured" in report(run.path, "--pictures", 0).text
    rows = [row for row in read_manifest(run.path / "manifest.csv", with_pictures=False).rows if row.split != "test"]
    write_manifest(run.path / "manifest.csv", rows)
    assert "The test part was not measured" not in report(run.path, "--pictures", 0).text
    (run.path / "predictions" / "val.csv").unlink()
    assert f"are kept. fx evaluate {run.path} --split val" in report(run.path).text
    write_manifest(run.path / "manifest.csv", [replace(row, split="train") for row in rows])
    assert "--split val" not in report(run.path).text


@pytest.mark.slow
def test_a_damaged_part_is_told_and_the_rest_is_shown(own):
    run = own("folds")
    (run.path / "folds/1/run.json").write_text("{", encoding="utf-8")
    found = report(run.path, "--pictures", 0)
    assert "folds/1 cannot be read" in found.text
    assert "fold 0: finished" in found.text


@pytest.mark.slow
def test_the_card_counts_what_was_learnt_from(own):
    run = own("one")
    rows = read_manifest(run.path / "manifest.csv", with_pictures=False).rows
    count = sum(row.split == "train" for row in rows)
    assert f": {count} pictures " in report(run.path, "--pictures", 0).text
    file = run.path / "recipe.yaml"
    text = file.read_text(encoding="utf-8").replace("train_frac: 1.0", "train_frac: 0.25")
    file.write_text(text, encoding="utf-8")
    assert f": {count} pictures, 25 % of them drawn" in report(run.path, "--pictures", 0).text
    views = own("views")
    file, every = views.path / "recipe.yaml", read_manifest(views.path / "manifest.csv", with_pictures=False).rows
    assert f": {count} pictures " in report(views.path).text
    pool = "splits: [train, val, calibration, test]"
    file.write_text(re.sub(r"splits:\s*(\[|- )train\]?", pool, file.read_text(encoding="utf-8")), encoding="utf-8")
    assert f": {len(every)} pictures " in report(views.path).text


def test_the_card_tells_of_leaked_pictures_whose_copies_were_learnt_from(own):
    run = own("one")
    file, told = run.path / "manifest.csv", "of its test pictures were learnt from, too, as copies."
    rows = [replace(row, group="") for row in read_manifest(file, with_pictures=False).rows]
    tests = [number for number, row in enumerate(rows) if row.split == "test"]
    for number, group in zip(tests[:3], ("known", "left out", "left out"), strict=True):
        rows[number] = replace(rows[number], leaked="yes", group=group)
    write_manifest(file, rows)
    assert told not in report(run.path, "--pictures", 0).text
    learnt = next(number for number, row in enumerate(rows) if row.split == "train")
    rows[learnt] = replace(rows[learnt], group="known")
    write_manifest(file, rows)
    assert f"1 {told}" in report(run.path, "--pictures", 0).text


@pytest.mark.slow
def test_folds(own):
    run = own("folds")
    found = report(run.path, "--pictures", 0)
    assert "fold 0: finished, fold 1: finished" in found.text
    assert [row[0] for row in found.table("training", "epochs")] == ["fold 0", "fold 1"]
    assert "Out-of-fold answers of the training pictures" in found.text
    assert "Prediction sets (" in found.text
    assert "--split" not in found.text, "nothing is missing"


def test_detectors(own):
    run = own("boxes")
    found = report(run.path)
    figures = evaluation(run, "test")["figures"]
    rows = dict(found.table("figure", "value [95 % interval]"))
    assert rows["AP50"] == told(figures["ap50"])
    assert rows["sensitivity at 1"] == told(figures["sensitivity_at_1_fp"])
    assert f"fx evaluate {run.path} --split val" in found.text
    assert "boxes around what it finds" in found.text
    count = sum(row.split == "train" for row in kept(run).rows)
    assert f": {count} pictures, of which those whose boxes are known" in found.text, "others may be unknown"


@pytest.mark.slow
def test_pictures_of_detectors_have_boxes_and_need_no_torch(own):
    run = own("boxes")
    well("evaluate", run.path, "--split", "val", "--quiet")
    found = page(report_without_torch(run.path, "--pictures", "2"))
    assert "12 pictures of the validation part: " in found.text
    shown = [a for tag, a in found.tags if tag == "img"]
    assert 2 <= len(shown) <= 6
    assert all(a["src"].startswith("data:image/jpeg;base64,") and a["alt"] for a in shown)
    before = kept(run)
    odd = replace(before, header={**before.header, "operating_points": [3]})
    (missing,) = pictures.pictures(odd, 2).blocks
    assert missing.what.startswith("No picture can be shown")
    (run.path / "predictions" / "val.csv").write_text("path\na.png\n")
    assert "No picture can be shown: no pictures whose boxes are known." in report(run.path).text


def test_pretrainings(own):
    found = report(own("views").path)
    assert "A pretrained backbone gives no answers" in found.text
    assert "feature spread" in found.text
    assert "figures of the validation part" not in found.text, "its figures are of all pictures, or of neighbours"
    assert "fx evaluate" not in found.text


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
def test_figures_of_another_model_are_told(own, made):
    run = own("one")
    shutil.copy(made / "other" / "model.safetensors", run.model_file)
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
def test_several_runs_are_compared(own):
    one, other = own("one"), own("other")
    found = report(one.path, other.path, "--out", "both.html", "--pictures", 0)
    assert ["optim.lr" in row[0] for row in found.table("key", "one", "other")].count(True) == 1
    rows = {row[0]: row[1:] for row in found.table("figure", "one", "other")}
    for place, run in enumerate((one, other)):
        figures = evaluation(run, "test")["figures"]
        assert rows["macro f1"][place] == told(figures["macro_f1"])
    assert [row[0] for row in found.table("training", "epochs")] == ["one", "other"]
    done = well("evaluate", one.path, other.path, "--json", "--quiet", "--out", "again")
    verdicts = [json.loads(line)["comparison"]["verdict"] for line in done.stdout.splitlines()[2:]]
    assert len(verdicts) == 4
    for verdict in verdicts:
        assert verdict in found.text


@pytest.mark.slow
def test_runs_of_different_tasks_and_data_beside_each_other(own):
    names = ("one", "boxes", "views", "folds")
    found = report(*(own(name).path for name in names), "--out", "all.html", "--pictures", 0)
    assert f"Runs {', '.join(names)}" in found.text
    own("one", "copies/one")
    found = report("runs/one", "runs/copies/one", "--out", "same.html", "--pictures", 0)
    assert "They are the same." in found.text
    assert "runs/copies/one" in found.text


@pytest.mark.slow
def test_a_run_is_found_by_its_recipe(own):
    own("one")
    assert well("report", "tiny", "--pictures", 0).stdout.strip() == str(Path("runs/one/report.html"))
    assert well("report", "one", "--pictures", 0).stdout.strip() == str(Path("runs/one/report.html"))
    missing = fx("report", "nothing")
    assert missing.exit_code == 6
    assert "no such run directory" in missing.stderr
    assert fx("report", "runs/one/run.json").exit_code == 6


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


@pytest.fixture
def added(demo_zoo):
    """Makes functions of a run directory to hooks of plugins: added(demo=lambda run: [("title", "text")])."""
    names = []

    def add(**functions):
        for name, function in functions.items():
            plugin = ModuleType(name)
            plugin.hook = hookimpl(function, specname="fx_report_sections")
            demo_zoo.pm.register(plugin, name)
            names.append(name)

    yield add
    for name in names:
        demo_zoo.pm.unregister(name=name)


@pytest.mark.slow
def test_plugins_add_sections(own, added):
    def ends(run):
        raise SystemExit

    def rows(run):
        yield "Rows", ((cell, 3) for cell in ("what<b>", "a<b>"))

    silent = type("Silent", (), {"__str__": lambda self: 1 / 0})()
    added(text=lambda run: [("Extra <b>", f"text <b> of {run.name}")], rows=rows)
    added(ends=ends, silent=lambda run: [("First", "text"), ("Second", [["head"], [silent]])])
    run = own("one")
    done = well("report", run.path, "--pictures", 0)
    found = page(run.path / "report.html")
    assert "Extra <b> (text)" in found.text
    assert "text <b> of one" in found.text
    assert "Rows (rows)" in found.text
    assert found.table("what<b>", "3") == [["a<b>", "3"]]
    assert "First" not in found.text
    for name in ("ends", "silent"):
        assert f"plugin {name} adds nothing to the report" in done.stderr


def test_kept_reads_parts_in_order(own):
    run = own("one")
    for number in (10, 2, 0):
        for fold in (1, 0):
            shutil.copytree(run.path / "evaluation", run.path / f"seeds/{number}/folds/{fold}/evaluation")
            shutil.copy(run.path / "run.json", run.path / f"seeds/{number}/folds/{fold}")
    assert list(kept(run).parts) == [f"seed {n}, fold {f}" for n in (0, 2, 10) for f in (0, 1)]


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
