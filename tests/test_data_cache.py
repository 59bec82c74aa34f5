"""Decoded pictures that are kept: the same bits, never stale, never half a file, shared by processes."""

import multiprocessing
import pickle
import shutil
import threading
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms.v2 import functional

from fxcli.data import cache, dataset
from fxcli.data.cache import contents, keep
from fxcli.data.dataset import Batches, Draw, TrainingPictures, Views, loader
from fxcli.data.preprocess import Clean, Preprocessing
from fxcli.errors import UnreadableImage
from fxcli.recipe.schema import Augment
from fxcli.run.cache import cache_dir

PREPROCESSING = Preprocessing(Clean(32), 24, "letterbox", (0.5,) * 3, (0.5,) * 3)
SQUASH = Preprocessing(Clean(32), 24, "squash", (0.5,) * 3, (0.5,) * 3)
CROP = Augment(crop_scale=(0.5, 1.0), hflip=0.5, rotate_deg=30.0)
WHOLE = Augment(hflip=0.5, rotate_deg=30.0)


@pytest.fixture
def paths(tmp_path):
    """Ten pictures of several shapes."""
    rng = np.random.default_rng(0)
    found = [tmp_path / f"{number}.png" for number in range(10)]
    for number, path in enumerate(found):
        Image.fromarray(rng.integers(0, 255, (20 + 3 * number, 40), dtype=np.uint8)).save(path)
    return found


def pictures(paths, augment=WHOLE, preprocessing=PREPROCESSING):
    return TrainingPictures(paths, [0, 1] * 5, preprocessing, augment)


def kept(data, mode="disk", *, workers=0, before=None, check=lambda: None):
    return keep(data.sight, mode, workers=workers, before=before, check=check)


def views(paths):
    """Two of each, [3, 24, 24], as a pretrainer's are."""
    return Views(paths, PREPROCESSING, [shown, lambda picture: shown(picture + 1)])


def shown(picture):
    return functional.resize(picture, [24, 24]).repeat(3, 1, 1)


def files():
    return sorted((cache_dir() / "pictures").iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["memory", "disk", "auto"])
@pytest.mark.parametrize("preprocessing", [PREPROCESSING, SQUASH], ids=["letterbox", "squash"])
@pytest.mark.parametrize("augment", [CROP, WHOLE], ids=["crop", "whole"])
def test_what_is_kept_is_what_is_decoded(paths, mode, preprocessing, augment):
    plain = pictures(paths, augment, preprocessing)
    fast = pictures(paths, augment, preprocessing)
    fast.kept = kept(fast, mode)
    assert len(fast.kept) == 10
    for index, path in enumerate(paths):
        assert np.array_equal(fast.kept[index], plain.see(path))
        for seed in range(3):
            one, two = plain[Draw(index, seed)], fast[Draw(index, seed)]
            assert torch.equal(one[0], two[0])
            assert one[1] == two[1]
    for path in paths:
        path.unlink()
    assert fast[Draw(3, 0)][0].shape == (1, 24, 24), "no file is looked at again"
    assert isinstance(plain[Draw(3, 0)], UnreadableImage)


@pytest.mark.parametrize("mode", ["memory", "disk"])
def test_views_too(paths, mode):
    plain, fast = views(paths), views(paths)
    fast.kept = kept(fast, mode)
    for index in range(10):
        assert all(torch.equal(*both) for both in zip(plain[Draw(index, 1)], fast[Draw(index, 1)], strict=True))


def test_a_change_of_a_view_does_not_change_what_is_kept(paths):
    fast = pictures(paths, Augment())
    fast.kept = kept(fast, "memory")
    before = fast.kept[0].copy()
    fast[Draw(0, 0)][0].zero_()
    assert np.array_equal(fast.kept[0], before)


def test_none_keeps_nothing_and_auto_only_what_fits(paths, monkeypatch, capsys):
    assert kept(pictures(paths), "none") is None
    for augment, size_bytes in ((WHOLE, 10 * 24**2), (CROP, 10 * 32**2)):
        data = pictures(paths, augment)
        monkeypatch.setattr(cache, "LIMIT_BYTES", size_bytes)
        assert kept(data, "auto").memory is not None
        monkeypatch.setattr(cache, "LIMIT_BYTES", size_bytes - 1)
        assert "data.cache" not in capsys.readouterr().err
        assert kept(data, "auto") is None
        assert "data.cache=disk keeps them" in capsys.readouterr().err
        assert len(kept(data, "memory")) == 10, "who asks for it gets it"
    assert not cache_dir().exists()


def test_a_file_is_found_again_and_shared_by_what_sees_the_same(paths, monkeypatch):
    kept(pictures(paths))
    monkeypatch.setattr(cache, "_decoded", None)
    (file,) = files()
    assert kept(pictures(paths, Augment(erase=0.5))).file == file
    assert kept(pictures(paths, Augment(hflip=1.0, brightness=0.1))).file == file


def test_whatever_it_depends_on_makes_another(paths, monkeypatch):
    kept(pictures(paths))
    changes = [
        pictures(paths, CROP),
        pictures(paths, WHOLE, SQUASH),
        pictures(paths, WHOLE, replace(PREPROCESSING, image_size_px=32)),
        pictures(paths, WHOLE, replace(PREPROCESSING, interpolation="bicubic")),
        pictures(paths, WHOLE, replace(PREPROCESSING, clean=Clean(64))),
        pictures(paths, WHOLE, replace(PREPROCESSING, clean=Clean(32, "minmax"))),
        pictures(paths[::-1]),
        pictures(paths[:-1]),
        views(paths),
    ]
    for number, data in enumerate(changes, 2):
        kept(data)
        assert len(files()) == number
    kept(pictures(paths, CROP.model_copy(update={"crop_scale": (0.1, 0.9)})))
    kept(pictures(paths, WHOLE, replace(PREPROCESSING, mean=(0.1,) * 3)))
    assert len(files()) == 10, "how it is cropped and normalised comes later"
    monkeypatch.setattr(cache.PIL, "__version__", "99")
    kept(pictures(paths))
    assert len(files()) == 11


def test_a_picture_that_changed_in_place_is_noticed(paths):
    before = kept(pictures(paths))
    shutil.copyfile(paths[0], paths[1])
    after = kept(pictures(paths), before=before)
    assert not np.array_equal(before[1], after[1])
    assert np.array_equal(after[0], after[1])


def test_the_next_phase_takes_what_there_is(paths):
    for mode in ("memory", "disk"):
        before = kept(pictures(paths), mode)
        assert kept(pictures(paths, Augment()), mode, before=before) is before
        assert kept(pictures(paths, CROP), mode, before=before) is not before


@pytest.mark.parametrize("damage", ["cut", "one bit", "empty", "foreign", "longer", "tail"])
def test_a_damaged_file_is_made_anew(paths, damage, capsys):
    before = kept(pictures(paths))
    (file,) = files()
    data = file.read_bytes()
    wrong = {
        "cut": data[:-1],
        "one bit": bytes([data[0] ^ 1]) + data[1:],
        "empty": b"",
        "foreign": b"x" * 1000,
        "longer": b"\0" + data,
        "tail": data[:-20] + b"\xff" * 4 + data[-16:],
    }[damage]
    file.unlink()
    file.write_bytes(wrong)
    again = kept(pictures(paths))
    assert "is damaged; the pictures are decoded anew" in capsys.readouterr().err
    assert all(np.array_equal(before[index], again[index]) for index in range(10))
    assert file.read_bytes() == data
    assert files() == [file]


def test_a_disk_that_is_full_costs_only_speed(paths, monkeypatch, capsys):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cache, "_write", full)
    assert kept(pictures(paths)) is None
    assert "cannot be kept (disk): [Errno 28] No space left on device" in capsys.readouterr().err
    monkeypatch.setattr(cache.np, "empty", lambda *_: (_ for _ in ()).throw(MemoryError("too much")))
    assert kept(pictures(paths), "memory") is None
    assert "cannot be kept (memory): too much" in capsys.readouterr().err


def test_a_file_that_another_run_holds_open_will_do(paths, monkeypatch):
    """As on Windows: the other one was quicker, and this one cannot replace it."""
    real = cache._write

    def write(*arguments):
        real(*arguments)
        raise PermissionError("in use")

    monkeypatch.setattr(cache, "_write", write)
    assert len(kept(pictures(paths))) == 10


def test_two_runs_at_once(paths):
    found = []
    threads = [threading.Thread(target=lambda: found.append(kept(pictures(paths)))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    assert len(files()) == 1
    assert all(np.array_equal(one[index], found[0][index]) for one in found for index in range(10))


def test_an_unreadable_picture_is_named_and_leaves_nothing(paths):
    paths[4].write_bytes(b"no picture")
    for mode in ("memory", "disk"):
        with pytest.raises(UnreadableImage) as caught:
            kept(pictures(paths), mode)
        assert caught.value.path == paths[4]
    assert files() == []
    paths[4].unlink()
    with pytest.raises(UnreadableImage, match="No such file"):
        contents(paths)


def test_it_can_be_stopped(paths):
    def check():
        raise InterruptedByTest

    for mode in ("memory", "disk"):
        with pytest.raises(InterruptedByTest):
            kept(pictures(paths), mode, check=check)
    assert files() == []


class InterruptedByTest(Exception):
    pass


# --- processes ---


@pytest.mark.parametrize("mode", ["memory", "disk"])
@pytest.mark.parametrize("method", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_processes_share_it(paths, mode, method, monkeypatch):
    """Any start method gives the same batches, and what is sent to a process does not grow with the pictures."""
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"no {method} here")
    if method == "spawn" and mode == "memory":
        monkeypatch.setattr(cache.multiprocessing, "get_start_method", lambda: "spawn")
    data = pictures(paths)
    data.kept = kept(data, mode, workers=1)
    if method == "spawn":
        assert mode == "disk" or data.kept.memory.is_shared()
    for path in paths:
        path.unlink()
    batches = Batches(10, 4, seed=0)
    loaders = [loader(data, batches, workers=count) for count in (0, 1)]
    loaders[1].multiprocessing_context = method
    try:
        one, two = (list(one) for one in loaders)
    finally:
        dataset.ended(loaders[1])
    assert len(one) == 3
    assert all(torch.equal(a[0], b[0]) and torch.equal(a[1], b[1]) for a, b in zip(one, two, strict=True))


def test_a_mapped_file_is_sent_by_its_name(paths):
    found = kept(pictures(paths))
    text = pickle.dumps(found)
    assert len(text) < 2000
    assert np.array_equal(pickle.loads(text)[7], found[7])


def test_too_little_shared_memory_is_told(paths, monkeypatch, capsys):
    monkeypatch.setattr(cache.multiprocessing, "get_start_method", lambda: "spawn")
    monkeypatch.setattr(cache.shutil, "disk_usage", lambda path: SimpleNamespace(free=64))
    assert kept(pictures(paths), "memory", workers=1) is None
    assert "/dev/shm has 0 MiB" in capsys.readouterr().err
    assert kept(pictures(paths), "memory", workers=0) is not None
