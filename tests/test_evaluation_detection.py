"""Figures of detectors, held against torchmetrics' COCO evaluation and by hand."""

import numpy as np
import pytest
import torch
from torchmetrics.detection import MeanAveragePrecision

from fxcli.data.boxes import Boxes
from fxcli.evaluation import detection
from fxcli.evaluation.bootstrap import replicates, tail_of
from fxcli.evaluation.box_table import found_csv, read_found
from fxcli.evaluation.detection import Detections
from fxcli.evaluation.intervals import wilson


def boxes(*corners, labels=None):
    array = np.array(corners, np.float32).reshape(-1, 4)
    return Boxes(array, np.array(labels if labels is not None else [0] * len(array), np.int64))


def found(*scored, labels=None):
    """(left, top, right, bottom, score) of each box."""
    array = np.array(scored, np.float32).reshape(-1, 5)
    classes = np.array(labels if labels is not None else [0] * len(array), np.int64)
    return Detections(array[:, :4], classes, array[:, 4])


def drawn(seed, pictures=40, classes=2):
    """Boxes, and what a middling detector finds of them."""
    rng = np.random.default_rng(seed)
    said, true = [], []
    for _ in range(pictures):
        here = [_box(rng) for _ in range(rng.integers(0, 4))]
        labels = rng.integers(0, classes, len(here))
        true.append(boxes(*here, labels=labels))
        moved = [np.array(box) + rng.normal(0, 3, 4).clip(-3.9, 3.9) for box in here if rng.random() < 0.8]
        kept = [label for label, box in zip(labels, here, strict=True)][: len(moved)]
        extra = [_box(rng) for _ in range(rng.integers(0, 5))]
        all_boxes = [*moved, *extra]
        scored = [(*np.maximum(box, 0), rng.random()) for box in all_boxes]
        said.append(found(*scored, labels=[*kept, *rng.integers(0, classes, len(extra))]))
    return said, true


def _box(rng):
    left, top = rng.uniform(0, 80, 2)
    width, height = rng.uniform(8, 60, 2)
    return left, top, left + width, top + height


def of_torchmetrics(said, true):
    metric = MeanAveragePrecision(
        backend="faster_coco_eval",
        class_metrics=True,
        rec_thresholds=np.linspace(0, 1, 101).tolist(),
        iou_thresholds=np.linspace(0.5, 0.95, 10).tolist(),
    )
    metric.warn_on_many_detections = False
    metric.update(
        [
            {"boxes": torch.tensor(s.corners), "scores": torch.tensor(s.scores), "labels": torch.tensor(s.labels)}
            for s in said
        ],
        [{"boxes": torch.tensor(t.corners), "labels": torch.tensor(t.labels)} for t in true],
    )
    return metric.compute()


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.filterwarnings("ignore")
def test_average_precision_is_that_of_coco(seed):
    said, true = drawn(seed, classes=1 + seed % 3)
    ours = detection.detection(said, true, 1 + seed % 3)
    theirs = of_torchmetrics(said, true)
    assert ours["ap50"] == pytest.approx(float(theirs["map_50"]), abs=1e-6)
    assert ours["ap50_95"] == pytest.approx(float(theirs["map"]), abs=1e-6)
    assert 0 < ours["ap50_95"] < ours["ap50"] < 1


def test_overlaps_by_hand():
    shared = detection.overlaps(
        np.array([[0.0, 0, 10, 10]]), np.array([[0.0, 0, 10, 10], [5, 0, 15, 10], [20, 20, 30, 30]])
    )
    assert shared[0] == pytest.approx([1, 50 / 150, 0])
    assert detection.overlaps(np.array([[1.0, 1, 1, 1]]), np.array([[1.0, 1, 1, 1]]))[0, 0] == 0


def test_a_true_box_is_found_once():
    said = [found((0, 0, 10, 10, 0.9), (0, 0, 10, 9, 0.8), (50, 50, 60, 60, 0.7))]
    matches = detection.match(said, [boxes((0, 0, 10, 10))], 1)
    assert matches.hits[:, 0].tolist() == [True, False, False]
    assert matches.score.tolist() == pytest.approx([0.9, 0.8, 0.7])


def test_a_box_of_another_class_is_no_hit():
    matches = detection.match([found((0, 0, 10, 10, 0.9), labels=[1])], [boxes((0, 0, 10, 10))], 2)
    assert not matches.hits.any()


def test_only_the_surest_hundred_of_a_class_count():
    many = found(*((0, 0, 1, 1, 0.5),) * 150, (50, 50, 60, 60, 0.1))
    matches = detection.match([many], [boxes((50, 50, 60, 60))], 1)
    assert len(matches.score) == 100
    assert not matches.hits.any()


def test_froc_by_hand():
    # Four pictures; of the two true boxes one is the second surest, the other the last of all.
    said = [
        found((0, 0, 10, 10, 0.8), (50, 50, 60, 60, 0.9)),
        found((70, 70, 80, 80, 0.7), (90, 90, 99, 99, 0.6)),
        found((70, 70, 80, 80, 0.5)),
        found((0, 0, 10, 10, 0.2)),
    ]
    true = [boxes((0, 0, 10, 10)), boxes(), boxes(), boxes((0, 0, 10, 10))]
    figures = detection.detection(said, true, 1)
    assert figures["sensitivity_at_0.5_fp"] == 0.5  # two false ones on four pictures
    assert figures["sensitivity_at_1_fp"] == 1.0
    assert figures["auroc"] == pytest.approx(0.5)  # 0.9 and 0.2 against 0.7 and 0.5
    points = detection.operating_points(said, true, 1)
    assert points[0.5] == pytest.approx(0.8, abs=1e-6), "0.7 is within it, too, and finds nothing more"
    assert points[1.0] == pytest.approx(0.2)


def test_equal_scores_are_told_together():
    said = [found((0, 0, 10, 10, 0.5), (50, 50, 60, 60, 0.5), (70, 70, 80, 80, 0.5))]
    figures = detection.detection(said, [boxes((0, 0, 10, 10))], 1)
    assert figures["sensitivity_at_1_fp"] == 0.0
    assert figures["sensitivity_at_2_fp"] == 1.0


@pytest.mark.parametrize("score", [0.7, 0.3, 0.1234565, 0.9999999])
def test_the_box_that_sets_a_point_is_told_of_in_tables(score):
    said = [found((0, 0, 10, 10, score))]
    least = detection.operating_points(said, [boxes((0, 0, 10, 10))], 1)[0.5]
    assert len(said[0].above(least)) == 1
    (read,) = read_found(found_csv([("a", "g", said[0], "", 1)], ["fracture"], ""), ["fracture"])
    assert len(read.boxes.above(least)) == 1


def test_figures_that_mean_nothing_are_left_out():
    surely = detection.detection([found((0, 0, 10, 10, 0.9))], [boxes((0, 0, 10, 10))], 1)
    assert surely["ap50"] == 1
    assert "auroc" not in surely, "there is no picture without a box"
    assert "ap50" not in detection.detection([found()], [boxes()], 1)


def test_where_the_surest_is_wrong_too_often_nothing_is_told():
    said = [found((50, 50, 60, 60, 0.9), (0, 0, 10, 10, 0.5))]
    points = detection.operating_points(said, [boxes((0, 0, 10, 10))], 1)
    assert points[0.5] > 0.9
    assert points[1.0] == pytest.approx(0.5)


def test_where_nothing_is_found_nothing_is_told():
    said = [found((50, 50, 60, 60, 0.9), (70, 70, 80, 80, 0.5))]
    points = detection.operating_points(said, [boxes((0, 0, 10, 10))], 1)
    assert points[2.0] > 0.9


def test_nothing_found_and_nothing_there():
    nothing = [found(), found()]
    assert detection.operating_points(nothing, [boxes(), boxes()], 1) is None
    assert detection.detection(nothing, [boxes((0, 0, 5, 5)), boxes()], 1)["ap50"] == 0
    told = detection.measured(nothing, [boxes(), boxes()], ["fracture"])
    assert told["ap50"] is None
    assert told["n_boxes"] == told["n_found"] == told["n_positive"] == 0


def test_a_weight_of_two_is_the_picture_twice():
    said, true = drawn(3, pictures=12)
    weights = np.random.default_rng(0).integers(0, 3, (12, 5)).astype(float)
    matches = detection.match(said, true, 2)
    ours = detection.Weighted(matches, np.arange(12))(weights)
    for column in range(5):
        again = [i for i in range(12) for _ in range(int(weights[i, column]))]
        plain = detection.detection([said[i] for i in again], [true[i] for i in again], 2)
        for name, value in plain.items():
            assert ours[name][column] == pytest.approx(value, abs=1e-9), name


def test_blocks_change_nothing(monkeypatch):
    said, true = drawn(4)
    statistics = detection.Weighted(detection.match(said, true, 2), np.arange(40))
    weights = np.random.default_rng(1).integers(0, 3, (40, 7)).astype(float)
    whole = statistics(weights)
    monkeypatch.setattr(detection, "_BLOCK", 1)
    for name, value in statistics(weights).items():
        np.testing.assert_allclose(value, whole[name], atol=1e-12)


def test_intervals_hold_their_estimate_and_widen_with_groups():
    said, true = drawn(5, pictures=60)
    alone = detection.measured(said, true, ["a", "b"], resamples=200)
    paired = detection.measured(said, true, ["a", "b"], [i // 6 for i in range(60)], resamples=200)
    for name in ("ap50", "ap50_95", "sensitivity_at_1_fp", "auroc"):
        assert alone[name]["low"] < alone[name]["value"] < alone[name]["high"], name
        assert paired[name]["value"] == alone[name]["value"]
    assert paired["n_groups"] == 10
    assert set(alone["class_ap50"]) == {"a", "b"}


def test_a_class_on_one_picture_is_known_no_better_for_the_boxes_of_another():
    box = (0, 0, 10, 10)
    said = [*[found((*box, 0.9)) if i % 3 else found() for i in range(60)], found((*box, 0.9), labels=[1])]
    true = [*[boxes(box)] * 60, boxes(box, labels=[1])]
    told = detection.measured(said, true, ["a", "b"], resamples=100)
    rare = told["class_ap50"]["b"]
    assert (rare["value"], rare["low"]) == (1.0, pytest.approx(wilson(1.0, 1)[0]))
    assert told["ap50"]["low"] < 0.5


def test_a_difference_rests_on_the_pictures_with_a_box():
    said, true = drawn(6, pictures=6, classes=1)
    said, true = said + [found()] * 200, true + [boxes()] * 200
    worse = [each.above(0.5) for each in said]
    difference = detection.compared(said, worse, true, 1)["difference"]
    sides = [detection.Weighted(detection.match(each, true, 1), np.arange(206)) for each in (said, worse)]
    a, b = (replicates(side, 206)["ap50"] for side in sides)
    tail = tail_of(sum(len(each.labels) > 0 for each in true))
    assert difference["low"] == pytest.approx(np.nanquantile(b - a, tail))


@pytest.mark.slow
def test_an_interval_covers_what_is_true_of_many_pictures():
    said, true = drawn(100, pictures=3000, classes=1)
    truth = detection.detection(said, true, 1)["ap50"]
    within = 0
    for start in range(0, 3000, 100):
        part = slice(start, start + 100)
        told = detection.measured(said[part], true[part], ["a"], resamples=200)["ap50"]
        within += told["low"] <= truth <= told["high"]
    assert within >= 25  # of 30; 95 % of them are 28.5


def test_scores_cut_detections():
    assert len(found((0, 0, 1, 1, 0.9), (0, 0, 1, 1, 0.3)).above(0.5)) == 1
    assert found().highest == 0
