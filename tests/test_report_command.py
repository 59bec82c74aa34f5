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
from reported import copying, evaluation, fx, page, report, well

from fxcli.data.manifest import read_manifest, write_manifest
from fxcli.evaluation.metrics import softmax
from fxcli.evaluation.predictions import read_labelled
from fxcli.evaluation.words import OVERALL, PER_CLASS, told
from fxcli.report import pictures
from fxcli.report.kept import kept
from fxcli.run import checkpoint
from fxcli.zoo.hookspecs import hookimpl


@pytest.fixture
def own(reported_runs):
    return copying(reported_runs)


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
