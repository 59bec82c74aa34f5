"""The order, the seeds and the processes of training pictures: none of them changes what is drawn."""

import multiprocessing
import os
import random
import signal
from collections import Counter
from multiprocessing import resource_sharer

import numpy as np
import pytest
import torch
from PIL import Image

from fxcli.data import dataset
from fxcli.data.dataset import (
    Batches,
    Draw,
    TrainingPictures,
    attended,
    balanced,
    begun,
    ended,
    evenly,
    loader,
    workers_of,
)
from fxcli.data.preprocess import Clean, Preprocessing
from fxcli.errors import MissingDependency, RunError, UnreadableImage, UsageError
from fxcli.recipe.schema import Augment

PREPROCESSING = Preprocessing(Clean(32), 24, "letterbox", (0.5,) * 3, (0.5,) * 3)
STRONG = Augment(
    hflip=0.5, rotate_deg=30.0, brightness=0.3, contrast=0.3, elastic=1.0, erase=0.5, crop_scale=(0.5, 1.0)
)


def epoch_of(batches, epoch, start=0):
    batches.begin(epoch, start)
    return list(batches)


# --- order ---


@pytest.mark.parametrize(("count", "size"), [(10, 3), (12, 4), (1, 8), (7, 1)])
def test_every_picture_once_an_epoch(count, size):
    batches = Batches(count, size, seed=0)
    for epoch in range(3):
        found = epoch_of(batches, epoch)
        assert sorted(draw.index for batch in found for draw in batch) == list(range(count))
        assert [len(batch) for batch in found[:-1]] == [size] * (len(found) - 1)
        assert len(batches) == len(found) == -(-count // size)


def test_order_is_a_function_of_seed_and_epoch():
    orders = {}
    for seed in (0, 1):
        for epoch in (0, 1, 2):
            orders[seed, epoch] = epoch_of(Batches(30, 4, seed=seed), epoch)
    flat = {key: tuple(draw.index for batch in found for draw in batch) for key, found in orders.items()}
    assert len(set(flat.values())) == 6
    batches = Batches(30, 4, seed=1)
    assert [epoch_of(batches, epoch) for epoch in (2, 0, 2)] == [orders[1, 2], orders[1, 0], orders[1, 2]]


def test_the_global_generators_decide_nothing():
    first = epoch_of(Batches(20, 4, seed=0, order=balanced([0, 1] * 10)), 0)
    torch.manual_seed(5)
    np.random.seed(5)
    random.seed(5)
    assert epoch_of(Batches(20, 4, seed=0, order=balanced([0, 1] * 10)), 0) == first


@pytest.mark.parametrize("order", [None, balanced([0, 0, 1] * 7)])
def test_start_skips_exactly(order):
    batches = Batches(21, 4, seed=0, order=order)
    whole = epoch_of(batches, 3)
    for start in range(7):
        assert epoch_of(batches, 3, start) == whole[start:]
        assert len(batches) == 6 - start
    assert epoch_of(batches, 3) == whole


def test_seeds_belong_to_places():
    """Not to pictures: the same picture is another view in another epoch, and no two places share a seed."""
    batches = Batches(20, 4, seed=0)
    seeds = [[draw.seed for batch in epoch_of(batches, epoch) for draw in batch] for epoch in range(3)]
    assert len({seed for epoch in seeds for seed in epoch}) == 60
    other = Batches(20, 4, seed=1)
    assert not set(seeds[0]) & {draw.seed for batch in epoch_of(other, 0) for draw in batch}
    larger = Batches(20, 7, seed=0)
    assert [draw.seed for batch in epoch_of(larger, 0) for draw in batch] == seeds[0], "nor to the batch size"


def test_balanced_draws_classes_equally_often():
    targets = [0] * 800 + [1] * 150 + [3] * 50
    batches = Batches(len(targets), 32, seed=0, order=balanced(targets))
    found = Counter()
    for epoch in range(3):
        indices = [draw.index for batch in epoch_of(batches, epoch) for draw in batch]
        assert len(indices) == 1000
        found.update(targets[index] for index in indices)
    assert {name: count / 3000 for name, count in found.items()} == pytest.approx(
        {0: 1 / 3, 1: 1 / 3, 3: 1 / 3}, abs=0.03
    )


def test_shuffled_draws_them_as_they_are():
    targets = [0] * 80 + [1] * 20
    found = Counter(targets[draw.index] for batch in epoch_of(Batches(len(targets), 32, seed=0), 0) for draw in batch)
    assert found == {0: 80, 1: 20}


# --- pictures ---


@pytest.fixture
def pictures(tmp_path):
    """Makes a dataset of 10 pictures, and of a file that is none when asked."""

    def make(augment=STRONG, broken=False):
        paths = []
        for index in range(10):
            pixels = np.random.default_rng(index).integers(0, 256, (32, 32), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / f"{index}.png")
            paths.append(tmp_path / f"{index}.png")
        if broken:
            (tmp_path / "9.png").write_text("no picture")
        return TrainingPictures(paths, [index % 3 for index in range(10)], PREPROCESSING, augment)

    return make


def test_item(pictures):
    found = pictures(Augment())
    image, target = found[Draw(4, 99)]
    assert np.array_equal(image[0].numpy(), PREPROCESSING.fit(PREPROCESSING.load(found.paths[4])))
    assert target == 1
    assert len(found) == 10


def test_item_is_a_function_of_its_draw(pictures):
    found = pictures()
    assert torch.equal(found[Draw(4, 99)][0], found[Draw(4, 99)][0])
    assert not torch.equal(found[Draw(4, 99)][0], found[Draw(4, 98)][0])


def test_unreadable_becomes_a_value(pictures):
    found = pictures(broken=True)
    error = found[Draw(9, 0)]
    assert isinstance(error, UnreadableImage)
    assert error.path == found.paths[9]


def epochs(pictures, workers, broken=False):
    """Three epochs through one loader, the second from its third batch on."""
    batches = Batches(10, 3, seed=0)
    feed = loader(pictures(broken=broken), batches, workers=workers)
    found = []
    for epoch, start in ((0, 0), (1, 2), (2, 0)):
        batches.begin(epoch, start)
        found.append(list(feed))
    return found


@pytest.mark.slow
def test_processes_change_nothing(pictures):
    alone, together = epochs(pictures, 0), epochs(pictures, 2)
    assert [len(epoch) for epoch in alone] == [4, 2, 4]
    for a, b in zip(alone, together, strict=True):
        assert len(a) == len(b)
        for (images, targets), (others, other_targets) in zip(a, b, strict=True):
            assert images.dtype == torch.uint8
            assert torch.equal(images, others)
            assert torch.equal(targets, other_targets)


@pytest.mark.slow
def test_an_unreadable_picture_comes_through_a_process_whole(pictures):
    for workers in (0, 2):
        errors = [batch for batch in epochs(pictures, workers, broken=True)[0] if isinstance(batch, UnreadableImage)]
        assert [error.path.name for error in errors] == ["9.png"]
        assert errors[0].reason == "not a picture, or of an unknown format"


@pytest.mark.slow
def test_a_package_that_is_not_there_is_told_from_a_process_as_it_is(pictures, monkeypatch):
    def see(*_):
        raise MissingDependency("pydicom", extra="dicom", purpose="a DICOM file")

    monkeypatch.setattr(TrainingPictures, "see", see)
    for workers in (0, 1):
        error = epochs(pictures, workers)[0][0]
        assert isinstance(error, MissingDependency)
        assert (error.exit_code, error.hint) == (7, "python -m pip install 'fxcli[dicom]'")


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 1])
def test_the_global_generators_are_not_moved(pictures, workers):
    batches = Batches(10, 3, seed=0)
    feed = loader(pictures(), batches, workers=workers)
    before = torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist()
    for epoch in range(2):
        batches.begin(epoch)
        assert len(list(feed)) == 4
    assert (torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist()) == before


@pytest.mark.slow
def test_leaving_early_does_no_harm(pictures):
    batches = Batches(10, 3, seed=0)
    feed = loader(pictures(), batches, workers=1)
    batches.begin(0)
    first = next(iter(feed))
    batches.begin(0)
    again = list(feed)
    assert len(again) == 4
    assert torch.equal(first[0], again[0][0])


def test_batches_are_as_torch_makes_them(pictures):
    images, targets = next(iter(loader(pictures(), Batches(10, 4, seed=0), workers=0)))
    assert images.shape == (4, 1, 24, 24)
    assert targets.shape == (4,)


def test_evenly():
    assert evenly(range(10), 3) == [0, 3, 6]
    assert evenly("abc", 7) == ["a", "b", "c"]
    assert evenly([], 3) == []


def test_workers_of(monkeypatch, pictures):
    for cores, expected in ((1, 1), (3, 3), (64, 4), (None, 1)):
        monkeypatch.setattr(dataset.os, "cpu_count", lambda cores=cores: cores)
        assert workers_of(None) == expected
    assert workers_of(0) == 0
    assert loader(pictures(), Batches(10, 4, seed=0), workers=None).num_workers == 1
    assert loader(pictures(), Batches(10, 4, seed=0), workers=0).num_workers == 0


@pytest.mark.slow
def test_ended_leaves_no_process(pictures):
    feed = loader(pictures(), Batches(10, 4, seed=0), workers=2)
    before = set(multiprocessing.active_children())
    next(begun(feed))
    mine = set(multiprocessing.active_children()) - before
    assert len(mine) == 2
    ended(feed)
    assert not any(process.is_alive() for process in mine)
    ended(loader(pictures(), Batches(10, 4, seed=0), workers=0))


def test_begun_gives_the_signals_back(pictures):
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    assert len(list(begun(loader(pictures(), Batches(10, 4, seed=0), workers=1)))) == 3
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_processes_begin_is_not_lost(pictures, number):
    heard = []
    before = signal.signal(number, lambda *_: heard.append(1))
    feed = loader(pictures(), Batches(10, 4, seed=0), workers=0)
    real = feed._get_iterator
    feed._get_iterator = lambda: os.kill(os.getpid(), number) or real()
    try:
        assert len(list(begun(feed))) == 3
    finally:
        signal.signal(number, before)
    assert heard == [1]


def test_the_environment_may_allow_fewer_processes(pictures, monkeypatch):
    monkeypatch.setenv("FX_MAX_WORKERS", "1")
    assert [loader(pictures(), Batches(10, 4, seed=0), workers=count).num_workers for count in (0, 1, 2)] == [0, 1, 1]
    monkeypatch.setenv("FX_MAX_WORKERS", "")
    assert loader(pictures(), Batches(10, 4, seed=0), workers=2).num_workers == 2
    monkeypatch.setenv("FX_MAX_WORKERS", "few")
    with pytest.raises(UsageError, match="FX_MAX_WORKERS must be a number of processes, not 'few'"):
        loader(pictures(), Batches(10, 4, seed=0), workers=1)


def test_a_process_that_the_system_ended_is_told_of(pictures):
    feed = loader(pictures(), Batches(10, 1, seed=0), workers=1)
    before = set(multiprocessing.active_children())
    batches = begun(feed)
    next(batches)
    (process,) = set(multiprocessing.active_children()) - before

    def killed():
        process.kill()  # torch may hear of it at once
        return list(batches)

    with pytest.raises(RunError) as caught, attended("fx train --resume runs/x"):
        killed()
    ended(feed)
    assert "the system ended a process that decodes pictures, because memory ran out, as a rule" in str(caught.value)
    assert "FX_MAX_WORKERS=1" in str(caught.value)
    assert str(caught.value).endswith("what was saved is whole, and goes on with: fx train --resume runs/x")


@pytest.mark.parametrize("broken", [ConnectionResetError(104, "Connection reset by peer"), EOFError()])
def test_a_process_killed_as_it_hands_over_a_batch_is_told_of_too(pictures, monkeypatch, broken):
    def get_connection(ident):
        raise broken

    monkeypatch.setattr(resource_sharer._resource_sharer, "get_connection", get_connection)
    feed = loader(pictures(), Batches(10, 1, seed=0), workers=1)
    with pytest.raises(RunError, match="the system ended a process that decodes pictures") as caught, attended():
        list(begun(feed))
    ended(feed)
    assert "ended as it handed over a batch" in str(caught.value)


def test_what_the_data_says_is_not_taken_for_a_lost_process(pictures):
    class Short(torch.utils.data.Dataset):
        def __getitem__(self, draw):
            raise EOFError("half a file")

        def __len__(self):
            return 10

    for workers in (0, 1):
        feed = loader(Short(), Batches(10, 1, seed=0), workers=workers)
        with pytest.raises(EOFError, match="half a file"), attended():
            list(begun(feed))
        ended(feed)


def test_what_torch_says_of_shared_memory_has_another_way_out():
    said = "DataLoader worker (pid 7) is killed by signal: Bus error. It is possible that dataloader's workers are out"
    with pytest.raises(RunError, match=r"killed by signal: Bus error\n  → enlarge /dev/shm") as caught, attended():
        raise RuntimeError(said)
    assert "goes on with" not in str(caught.value)


def test_other_errors_stay_as_they_are():
    with pytest.raises(RuntimeError, match="in DataLoader worker process 0"), attended():
        raise RuntimeError("Caught RuntimeError in DataLoader worker process 0.")
