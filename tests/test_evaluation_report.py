import json
import re
from dataclasses import replace

import numpy as np
import pytest

from fxcli.evaluation import words
from fxcli.evaluation.figures import measured
from fxcli.evaluation.intervals import proportion
from fxcli.evaluation.metrics import softmax
from fxcli.evaluation.predictions import Labelled
from fxcli.evaluation.report import contradicted, report
from fxcli.evaluation.uncertainty import Uncertainty, fit
from fxcli.recipe.schema import Evaluate


def labelled(classes, count=300, seed=0, folds=2):
    rng = np.random.default_rng(seed)
    targets = rng.integers(classes, size=count)
    members = rng.normal(size=(count, folds, classes)) + 1.5 * np.eye(classes)[targets][:, None]
    groups = tuple(f"{seed}-{number}" for number in range(count))
    logits = members.mean(axis=1)[None].astype(np.float32)
    return Labelled(tuple(map(str, range(count))), groups, targets, logits, None, members.astype(np.float32))


@pytest.fixture
def known():
    oof = labelled(3, count=400, seed=1, folds=1)
    return fit(oof, Evaluate(), ("a", "b", "c"), source="oof", folds=np.arange(400) % 2)


def test_figures_are_those_of_the_calibrated_logits(known):
    said = labelled(3)
    found = report(said, ("a", "b", "c"), known, by={}, unseen=True)
    logits = said.mean_logits / known.temperature
    assert found["figures"] == measured(logits, said.targets, said.groups, ("a", "b", "c"))
    assert sum(row["n"] for row in found["reliability"]) == 300
    json.dumps(found, allow_nan=False)
    # What was fitted to these pictures is not measured on them.
    plain = report(said, ("a", "b", "c"), known, by={})
    assert plain["temperature"] == 1
    assert plain["figures"]["nll"] == measured(said.mean_logits, said.targets, said.groups, ("a", "b", "c"))["nll"]


def test_sets_and_abstentions_are_measured_on_unseen_pictures_alone(known):
    said = labelled(3)
    found = report(said, ("a", "b", "c"), known, by={}, unseen=True)
    sets = known.sets.sets(said.by_fold / known.temperature, said.mean_logits.argmax(axis=1))
    held = sets[np.arange(300), said.targets]
    assert found["sets"]["coverage"] == pytest.approx(held.mean())
    size, of_b = found["sets"]["mean_size"], found["sets"]["per_class"]["b"]["coverage"]
    assert size["value"] == pytest.approx(sets.sum(axis=1).mean())
    assert size["low"] < size["value"] < size["high"]
    own, groups = said.targets == 1, np.asarray(said.groups)
    assert of_b == proportion(held[own], groups[own]).to_mapping()
    probabilities = softmax(said.mean_logits / known.temperature)
    for row in found["abstentions"]:
        answered = probabilities.max(axis=1) >= row["threshold"]
        wrong = probabilities.argmax(axis=1) != said.targets
        assert row["answered"] == proportion(answered, groups).to_mapping()
        assert row["error"] == proportion(wrong[answered], groups[answered]).to_mapping()
        assert row["error"]["value"] == pytest.approx(wrong[answered].mean())
    assert not {"sets", "abstentions"} & set(report(said, ("a", "b", "c"), known, by={}, unseen=False))


def test_what_is_told_of_errors_has_its_interval(known):
    found = report(labelled(3), ("a", "b", "c"), known, by={}, unseen=True)
    assert re.search(
        r"with \d\.\d{3} \[\d\.\d{3}, \d\.\d{3}\] classes on average; \d+\.\d % \[.+\] hold one class",
        words.sets(found["sets"]),
    )
    for row in words.abstentions(found["abstentions"]):
        assert all(re.fullmatch(r"\d+\.\d % \[\d+\.\d, \d+\.\d\]", cell) for cell in row[2:]), row
    share = {"value": 0.1234, "low": 0.1, "high": 0.2}
    assert words.unlike({"share": share}) == "unlike the training pictures: 12.3 % [10.0, 20.0]"
    assert words.percent({"value": 0.5, "low": None, "high": None}) == "50.0 %"
    assert words.percent(None) == "–"
    nobody = [{"target": 0.1, "threshold": 0.9, "answered": {"value": 0.0, "low": 0.0, "high": 0.1}, "error": None}]
    assert list(words.abstentions(nobody)) == [["10 %", "0.900", "0.0 % [0.0, 10.0]", "–"]]


def test_the_curve_ends_at_the_error_of_all(known):
    said = labelled(3)
    curve = report(said, ("a", "b", "c"), known, by={})["risk_coverage"]
    assert len(curve["risk"]) == 20
    assert curve["coverage"][-1] == 1
    assert curve["risk"][-1] == pytest.approx((said.mean_logits.argmax(axis=1) != said.targets).mean(), abs=1e-6)
    assert curve["threshold"] == sorted(curve["threshold"], reverse=True)


def test_columns_are_taken_apart():
    said = labelled(3)
    column = ["yes" if number % 3 else "no" for number in range(300)]
    found = report(said, ("a", "b", "c"), Uncertainty(), by={"leaked": column})["by"]["leaked"]
    right = said.mean_logits.argmax(axis=1) == said.targets
    inside = np.array(column) == "no"
    assert {value: row["n"] for value, row in found.items()} == {"no": 100, "yes": 200}
    assert found["no"]["accuracy"]["value"] == pytest.approx(right[inside].mean())


@pytest.mark.parametrize(("negative", "positive"), [("a", 1), ("b", 0)])
def test_of_two_classes_one_is_the_finding(negative, positive):
    said = labelled(2)
    found = report(said, ("a", "b"), Uncertainty(), by={}, negative=negative)["binary"]
    named = softmax(said.mean_logits)[:, positive] >= 0.5
    finding = said.targets == positive
    assert found["positive"] == ("a", "b")[positive]
    assert found["sensitivity"]["value"] == pytest.approx(named[finding].mean())
    assert found["specificity"]["value"] == pytest.approx((~named)[~finding].mean())
    assert "none was fitted" in found["threshold_from"]
    told = words.finding(found, "test")
    assert told.endswith(f"; ppv and npv hold where {100 * finding.mean():.0f} % bear a finding, as here")
    assert "flatter" not in told
    assert "these pictures chose it" in words.finding({**found, "threshold_from": "val"}, "val")
    assert "binary" not in report(said, ("a", "b"), Uncertainty(), by={})


def test_a_threshold_that_could_not_be_fitted_is_not_told_as_fitted():
    one_class = labelled(2)
    one_class = replace(one_class, targets=np.zeros_like(one_class.targets), by_fold=None)
    known = fit(one_class, Evaluate(negative_class="b"), ("a", "b"), source="calibration")
    found = report(labelled(2, seed=1), ("a", "b"), known, by={}, negative="b")["binary"]
    assert (found["threshold"], found["threshold_from"]) == (0.5, "0.5, for none was fitted")


def test_the_surest_contradictions_come_first():
    said = labelled(3, count=900)
    found = contradicted(said, ("a", "b", "c"))
    margins = [row["p_predicted"] - row["p_label"] for row in found]
    assert len(found) == 50 < (said.mean_logits.argmax(axis=1) != said.targets).sum()
    assert margins == sorted(margins, reverse=True)
    probabilities = softmax(said.mean_logits)
    rows = np.arange(900)
    assert margins[0] == pytest.approx((probabilities.max(axis=1) - probabilities[rows, said.targets]).max(), abs=2e-4)
    assert all(row["label"] != row["predicted"] for row in found)


@pytest.mark.parametrize("sharpness", [0.2, 1.0, 5.0])
@pytest.mark.parametrize("unseen", [False, True])
def test_a_threshold_keeps_what_it_was_fitted_for(sharpness, unseen):
    said = labelled(2, count=400)
    said = replace(said, logits=said.logits * sharpness, by_fold=None)
    for classes, negative in ((("broken", "healthy"), 1), (("healthy", "torn"), 0)):
        settings = Evaluate(negative_class=classes[negative])
        known = fit(said, settings, classes, source="oof")
        found = report(said, classes, known, by={"all": ["x"] * 400}, unseen=unseen, negative=classes[negative])
        positives = (said.targets != negative).sum()
        # The highest threshold that keeps 95 %: not one more positive is named than that takes.
        assert found["binary"]["tp"] == np.ceil(0.95 * positives - 1e-9)
        assert found["by"]["all"]["x"]["sensitivity"] == found["binary"]["sensitivity"]
