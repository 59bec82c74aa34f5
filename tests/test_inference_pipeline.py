import os
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from fxcli.data.manifest import read_manifest
from fxcli.data.preprocess import Preprocessing
from fxcli.errors import RunError, UnreadableImage
from fxcli.inference.opened import open_model
from fxcli.inference.pipeline import Pipeline, ordered_map
from fxcli.model.hardware import Compute


@pytest.fixture
def opened(trained):
    return open_model(str(trained.path))


@pytest.fixture
def files(prepared):
    manifest = read_manifest(prepared / "manifest.csv")
    return [manifest.path_of(row) for row in manifest.part("test")]


def test_answers_come_in_order_with_errors_in_their_place(opened, files, tmp_path):
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"no")
    mixed = [files[0], bad, *files[1:5], bad]
    answers = list(opened.pipeline.run(mixed))
    assert [answer.path for answer in answers] == mixed
    assert [answer.logits is None for answer in answers] == [False, True, False, False, False, False, True]
    assert answers[1].reason == "not a picture, or of an unknown format"


def test_only_unreadable_pictures_need_no_forward_pass(opened, tmp_path):
    assert [answer.reason for answer in opened.pipeline.run([tmp_path / "gone.png"])] == ["no such file"]


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_workers_change_nothing(opened, files, workers):
    expected = opened.pipeline.logits(files)
    found = open_model(str(opened.run.path), workers=workers).pipeline.logits(files)
    assert np.array_equal(found, expected)


def test_batch_sizes_agree_within_the_promise(opened, files):
    expected = opened.pipeline.logits(files)
    for size in (1, 5):
        found = open_model(str(opened.run.path), batch_size=size).pipeline.logits(files)
        assert np.abs(found - expected).max() < 1e-5


def test_logits_are_those_of_the_plain_way(opened, files):
    model = opened.model
    fitted = np.stack([model.preprocessing.fit(model.preprocessing.load(path)) for path in files])
    with torch.inference_mode():
        expected = model.network(model.preprocessing.normalise(torch.from_numpy(fitted)[:, None]))
    assert np.array_equal(opened.pipeline.logits(files), expected.numpy())


def test_flips_are_the_mean_over_the_mirror(opened, files):
    images = opened.pipeline.preprocessing.fit(opened.pipeline.preprocessing.load(files[0]))[None, None]
    plain, maps, _, features = opened.pipeline.forward(images.copy())
    mirrored, *_ = opened.pipeline.forward(images[..., ::-1].copy())
    found, maps_with_flips, _, with_flips = open_model(str(opened.run.path), flips=True).pipeline.forward(images.copy())
    assert np.array_equal(maps_with_flips, maps)
    assert np.array_equal(with_flips, features)
    assert found == pytest.approx((plain + mirrored) / 2, abs=1e-6)


def test_maps_features_and_pictures_are_for_the_function_alone(opened, files):
    plain = next(opened.pipeline.run(files[:1]))
    assert (plain.cleaned, plain.maps, plain.features) == (None, None, None)
    whole = next(opened.pipeline.map(lambda answer: answer, files[:1]))
    assert whole.maps.shape == (3, 8, 8)
    assert whole.maps.sum(axis=(1, 2)) + opened.model.network.head.bias.detach().numpy() == pytest.approx(
        whole.logits, abs=1e-5
    )
    assert whole.cleaned.pixels.shape == (64, 64)
    assert whole.features.shape == (1, 32)
    with torch.inference_mode():
        assert np.array_equal(opened.model.network.answer(torch.from_numpy(whole.features)).numpy(), whole.members)
    assert np.array_equal(whole.row.logits, plain.logits)


def test_the_function_runs_beside_the_engine_and_its_results_keep_their_order(opened, files):
    seen = set()

    def work(answer):
        seen.add(threading.get_ident())
        time.sleep(0.02 if answer.index == 0 else 0)
        return answer.index

    pipeline = replace(opened.pipeline, workers=2, batch_size=2)
    assert list(pipeline.map(work, files)) == list(range(len(files)))
    assert len(seen) == 2
    assert threading.get_ident() not in seen


def test_an_error_of_the_function_reaches_the_caller(opened, files):
    def work(answer):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        list(replace(opened.pipeline, workers=2).map(work, files))


def test_streams_share_the_threads_and_give_them_back(opened, files, monkeypatch):
    before = torch.get_num_threads()
    inside = []
    try:
        torch.set_num_threads(2)
        list(
            replace(opened.pipeline, workers=2, batch_size=1).map(
                lambda _: inside.append(torch.get_num_threads()), files
            )
        )
        assert set(inside) == {1}
        assert torch.get_num_threads() == 2
        assert opened.pipeline.engine.streams == 2
    finally:
        torch.set_num_threads(before)


def test_few_pictures_are_divided_among_the_streams(opened, files):
    sizes = []

    class Counting:
        streams, name, precision, batch_size = 2, "x", "fp32", 8
        shared_by = opened.pipeline.engine.shared_by

        def run(self, images):
            sizes.append(len(images))
            return opened.pipeline.engine.run(images)

    list(Pipeline(Counting(), opened.pipeline.preprocessing, batch_size=8).run(files[:6]))
    assert sizes == [3, 3]


def test_logits_refuse_an_unreadable_picture(opened, files, tmp_path):
    with pytest.raises(UnreadableImage, match="no such file"):
        opened.pipeline.logits([files[0], tmp_path / "gone.png"])


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no pipes")
def test_a_pipe_is_not_waited_for(opened, files):
    os.mkfifo("pipe.png")
    answers = list(opened.pipeline.run([files[0], Path("pipe.png"), Path("."), files[1]]))
    assert [answer.reason for answer in answers] == ["", "a pipe, not a file", "this is a folder", ""]
    assert answers[3].logits is not None


def test_ordered_map_never_runs_far_ahead():
    done, most = 0, 0
    lock = threading.Lock()

    def work(item):
        nonlocal done
        time.sleep(0.001 * (item % 3))
        with lock:
            done += 1
        return item

    found = []
    for item in ordered_map(work, range(60), workers=3, ahead=5):
        most = max(most, done - len(found))
        found.append(item)
    assert found == list(range(60))
    assert most <= 6 + 1


def test_ordered_map_passes_errors_on():
    def work(item):
        if item == 3:
            raise ZeroDivisionError
        return item

    with pytest.raises(ZeroDivisionError):
        list(ordered_map(work, range(9), workers=2, ahead=4))


def test_a_caller_may_stop_early():
    started = []
    for item in ordered_map(lambda x: started.append(x) or x, iter(range(10_000)), workers=2, ahead=4):
        if item == 2:
            break
    assert len(started) < 50


def test_the_model_is_named_on_stderr(trained, capsys):
    opened = open_model(str(trained.path))
    told = capsys.readouterr().err
    assert "recipe tiny, demo_tiny, data tiny" in told
    assert opened.digest[:12] in told


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_answers_that_are_not_finite_are_refused(opened, files, value):
    opened.model.network.head.bias.data[1] = value
    with pytest.raises(RunError, match="not finite"):
        opened.pipeline.logits(files[:2])


def test_pictures_are_sent_as_bytes_and_normalised_there(opened, monkeypatch):
    seen = []
    normalise = Preprocessing.normalise
    monkeypatch.setattr(Preprocessing, "normalise", lambda self, images: seen.append(images) or normalise(self, images))
    engine = replace(opened.pipeline.engine, compute=Compute(torch.device("meta"), channels_last=True))
    batch = engine.batch(np.zeros((2, 1, 32, 32), dtype=np.uint8))
    assert (seen[0].device.type, seen[0].dtype) == ("meta", torch.uint8)
    assert batch.is_contiguous(memory_format=torch.channels_last)
    assert (batch.shape, batch.dtype) == ((2, 3, 32, 32), torch.float32)
