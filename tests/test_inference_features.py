"""features.npy and paths.csv: read by numpy and csv as they are, and told where they cannot be."""

import csv
import os
from pathlib import Path

import numpy as np
import pytest

from fxcli.errors import DataError, RunError
from fxcli.inference.features import check, going_to


def keep(rows, paths, *, folder="learnt", width=6):
    with going_to(Path(folder), paths, width, beside=None) as kept:
        for row in rows:
            kept.add(row)
    return kept


def test_rows_are_read_back():
    rng = np.random.default_rng(0)
    rows = [rng.normal(size=(2, 3)).astype(np.float32), None, rng.normal(size=(2, 3)).astype(np.float32)]
    kept = keep(rows, ["a.png", 'b,"\n.png', "é.png"])
    found = np.load("learnt/features.npy", allow_pickle=False)
    assert (found.shape, found.dtype, found.flags.c_contiguous) == ((3, 6), np.dtype("<f4"), True)
    assert np.array_equal(found[0], rows[0].reshape(-1))
    assert np.array_equal(found[2], rows[2].reshape(-1))
    assert np.isnan(found[1]).all()
    assert kept.readable == [0, 2]
    with Path("learnt/paths.csv").open(newline="", encoding="utf-8") as handle:
        assert list(csv.reader(handle)) == [["path"], ["a.png"], ['b,"\n.png'], ["é.png"]]


def test_they_can_be_mapped():
    rows = np.arange(60, dtype=np.float32).reshape(10, 1, 6)
    keep(rows, [f"{number}.png" for number in range(10)])
    assert np.array_equal(np.load("learnt/features.npy", mmap_mode="r"), rows[:, 0])


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_is_no_feature(value):
    with pytest.raises(RunError, match="the features are not finite"):
        keep([np.full((1, 6), value, dtype=np.float32)], ["a.png"])
    assert list(Path("learnt").iterdir()) == []


def test_features_are_never_named_by_the_paths_of_others(monkeypatch):
    keep([np.zeros((1, 6), np.float32)], ["a.png"])

    def killed(source, target):
        if target.name == "features.npy":
            raise KeyboardInterrupt
        os.replace(source, target)

    monkeypatch.setattr("fxcli.run.files.replace", killed)
    with pytest.raises(KeyboardInterrupt):
        keep([np.ones((1, 6), np.float32)], ["b.png"])
    assert Path("learnt/paths.csv").read_text() == "path\nb.png\n"
    assert not Path("learnt/features.npy").exists()


def test_nowhere():
    with going_to(None, [], 0, beside=None) as kept:
        assert kept is None


def test_a_file_is_no_folder():
    Path("learnt").write_text("mine")
    with pytest.raises(DataError, match="cannot be written"):
        keep([], [])


def test_a_folder_that_is_locked_already_is_not_locked_again():
    with going_to(Path("learnt"), ["a.png"], 2, beside=Path("learnt/../learnt")) as kept:
        assert not Path("learnt/lock.json").exists()
        kept.add(np.zeros((1, 2), np.float32))
    with going_to(Path("learnt"), ["a.png"], 2, beside=Path("other")) as kept:
        assert Path("learnt/lock.json").exists()
        kept.add(np.ones((1, 2), np.float32))
    assert np.load("learnt/features.npy").tolist() == [[1, 1]]


def test_a_folder_with_other_things_is_free():
    Path("learnt").mkdir()
    Path("learnt/notes.txt").touch()
    check(Path("learnt"), overwrite=False)
    check(Path("absent"), overwrite=False)
    Path("learnt/paths.csv").touch()
    with pytest.raises(DataError, match="this file exists") as error:
        check(Path("learnt"), overwrite=False)
    assert error.value.where == Path("learnt/paths.csv")
    check(Path("learnt"), overwrite=True)
