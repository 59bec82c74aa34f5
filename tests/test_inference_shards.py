"""Shards without a cluster: how pictures are cut, what is found again, and that each row is there once."""

import os
import re
import secrets
import shutil
import sys
import time
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fxcli.cli import app
from fxcli.errors import DataError, RunError
from fxcli.inference import on_ray, shards
from fxcli.inference.notes import write_notes
from fxcli.inference.opened import open_model
from fxcli.inference.verdict import open_judge
from fxcli.run import checkpoint
from fxcli.run.directory import Run
from fxcli.testing import tiny_dataset

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

TABLE = Path("out/predictions.parquet")
PART = Path("out/predictions.parquet.part")
MADE_WITH = {"model": "a"}


def cut(names):
    return list(shards.cut(map(Path, names), names))


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(shards, "SIZE", 8)
    monkeypatch.setattr(shards, "MOST", 32)


NAMES = [f"pictures/{number // 100}/{number}.png" for number in range(2000)]


def test_shards_hold_every_picture_once_in_order(small):
    found = cut(NAMES)
    assert [cell for shard in found for cell in shard.cells] == NAMES
    assert [str(file) for shard in found for file in shard.files] == NAMES
    sizes = [len(shard.cells) for shard in found]
    assert max(sizes) <= 32
    assert 5 < sum(sizes) / len(sizes) < 12
    assert len({shard.key for shard in found}) == len(found)
    assert cut([]) == []


def test_what_comes_or_goes_changes_the_shards_around_it_alone(small):
    keys = {shard.key for shard in cut(NAMES)}
    more = {shard.key for shard in cut(sorted([*NAMES, "pictures/7/new.png"]))}
    sorted_keys = {shard.key for shard in cut(sorted(NAMES))}
    assert len(more - sorted_keys) <= 2
    assert len({shard.key for shard in cut(NAMES[1:])} - keys) <= 2


@pytest.fixture
def judge(trained):
    open_one = partial(open_model, device="cpu", fast=True, draft=True)
    return open_judge(open_one, str(trained.model_file), None, sets=False, abstain=None)


@pytest.fixture
def raw(small):
    folder = tiny_dataset(Path("raw"), per_class=10)
    (folder / "class_1" / "broken.png").write_bytes(b"nothing")
    # A picture that changes while it is read is read again: these did not.
    time.sleep(0.02)
    return folder


def pictures():
    files = sorted(Path("raw").rglob("*.png"))
    return list(shards.cut((file.absolute() for file in files), map(str, files)))


def spread(judge, *, resume=False, overwrite=False, upto=None):
    """What a cluster would do, by this process; stopped after some shards."""
    parts, command = pictures(), secrets.token_hex(8)
    with shards.going_to(Path("out"), MADE_WITH, resume=resume, overwrite=overwrite) as kept:
        todo = kept.missing(parts)
        kept.begin()
        told = [shards.write(judge, shard, kept.folder, command) for shard in todo[:upto]]
        if upto is not None:
            raise KeyboardInterrupt
        kept.finish(parts)
    return todo, told


def with_ray(monkeypatch):
    """As if it were installed."""
    monkeypatch.setitem(sys.modules, "ray", sys)
    monkeypatch.setattr(sys, "__spec__", object(), raising=False)


def rows():
    return pq.read_table(TABLE).to_pylist()


def local(*options):
    """The rows of the local command."""
    options = options or ("--model", "runs/trained")
    options = ["raw", *options, "--out", "local", "--overwrite", "--parquet", "--quiet"]
    assert CliRunner().invoke(app, ["predict", *options]).exit_code in (0, 9)
    return pq.read_table("local/predictions.parquet").to_pylist()


def assert_same(found, expected):
    assert [{k: v for k, v in row.items() if k[:2] != "p_"} for row in found] == [
        {k: v for k, v in row.items() if k[:2] != "p_"} for row in expected
    ]
    for row, other in zip(found, expected, strict=True):
        for name in (name for name in row if name.startswith("p_")):
            assert row[name] == (None if other[name] is None else pytest.approx(other[name], abs=1e-5))


def test_rows_are_those_of_the_local_command(judge, raw):
    _, told = spread(judge)
    assert sum(each.rows for each in told) == 31
    assert sum(each.failed for each in told) == 1
    assert_same(rows(), local())
    assert (
        pq.read_table(TABLE).schema.remove_metadata() == pq.read_schema("local/predictions.parquet").remove_metadata()
    )
    assert sorted(file.name for file in Path("out").iterdir()) == [TABLE.name, f"{TABLE.name}.json"]
    assert len(list(TABLE.iterdir())) == len(pictures()) > 2


def test_going_on_does_what_is_missing(judge, raw):
    with pytest.raises(KeyboardInterrupt):
        spread(judge, upto=2)
    assert not TABLE.exists()
    with pytest.raises(DataError, match="a prediction that was stopped left shards here"):
        spread(judge)
    (PART / "0123456789abcdef.parquet.x1.part").write_bytes(b"of a process that was killed")
    todo, _ = spread(judge, resume=True)
    failed = [shard for shard in pictures() if any(cell.endswith("broken.png") for cell in shard.cells)]
    assert len(todo) - len(pictures()) + 2 in (0, 1)
    assert_same(rows(), local())
    assert failed[0] in spread(judge, resume=True)[0], "an error is tried again"
    assert_same(rows(), local())


def test_a_shard_that_is_torn_or_changed_is_done_again(judge, raw):
    (raw / "class_1" / "broken.png").unlink()
    spread(judge)
    assert spread(judge, resume=True)[0] == []
    first, second, *_ = pictures()
    file = next(TABLE.glob(f"*{first.key}.parquet"))
    file.write_bytes(file.read_bytes()[:-9])
    shutil.copy(raw / "class_2" / "1.png", second.files[0])
    assert spread(judge, resume=True)[0] == [first, second]
    assert_same(rows(), local())


def test_complete_rows_are_there_until_there_is_a_cluster(trained, raw, monkeypatch):
    def written(task, todo, room):
        opened = task.opened()
        return (shards.write(opened, shard, Path(task.folder), task.command) for shard in todo)

    def nowhere(*, cores):
        raise RunError("no Ray cluster can be used")

    def predict(*more):
        options = ["raw", "--model", "runs/trained", "--on", "ray", "--out", "out", "--quiet", *more]
        return CliRunner().invoke(app, ["predict", *options]).exit_code

    with_ray(monkeypatch)
    monkeypatch.setattr(on_ray, "written", written)
    monkeypatch.setattr(on_ray, "cluster", lambda *, cores: nullcontext(1))
    assert predict() == 9
    before = rows()
    assert_same(before, local())
    with monkeypatch.context() as patch:
        patch.setattr(on_ray, "cluster", nowhere)
        assert predict("--resume") == 6
    assert rows() == before
    assert sorted(file.name for file in Path("out").iterdir()) == [TABLE.name, f"{TABLE.name}.json"]
    assert predict("--resume") == 9
    assert rows() == before


def test_pictures_that_came_and_went(judge, raw, capsys):
    spread(judge)
    shutil.copy(raw / "class_2" / "1.png", raw / "class_0" / "new.png")
    (raw / "class_2" / "5.png").unlink()
    (raw / "class_1" / "broken.png").unlink()
    todo, _ = spread(judge, resume=True)
    assert "warning: 2 pictures that have a row are no longer here: their rows are left out" in capsys.readouterr().err
    assert len(todo) < len(pictures())
    shutil.copy(raw / "class_2" / "1.png", raw / "class_0" / "newer.png")
    torn = next(TABLE.glob(f"*{pictures()[-1].key}.parquet"))
    torn.rename(TABLE / "part-000099-0123456789abcdef.parquet").write_bytes(b"torn")
    spread(judge, resume=True)
    assert "no longer here" not in capsys.readouterr().err, "those that came move others into new shards"
    assert_same(rows(), local())


def test_pictures_that_are_named_twice_have_two_rows(judge, raw):
    parts = pictures()
    with shards.going_to(Path("out"), MADE_WITH, resume=False, overwrite=False) as kept:
        for shard in kept.missing(parts):
            shards.write(judge, shard, kept.folder, "one")
        kept.finish([*parts, *parts])
    once, again = rows()[:31], rows()[31:]
    assert once == again
    assert_same(once, local())


def test_a_shard_that_another_machine_wrote_for_this_command_is_not_done_again(judge, raw, monkeypatch):
    Path("shards").mkdir()
    shard = pictures()[0]
    told = shards.write(judge, shard, Path("shards"), "one")
    monkeypatch.setattr(shards, "Lines", None)
    assert shards.write(judge, shard, Path("shards"), "one") == told
    with pytest.raises(TypeError):
        shards.write(judge, shard, Path("shards"), "two")


def test_a_machine_that_does_not_see_the_folder_says_so(judge, raw):
    with pytest.raises(RunError, match="this folder is not seen"):
        shards.write(judge, pictures()[0], Path("elsewhere"), "one")


def test_a_shard_that_ends_its_process_is_given_up(judge, raw, monkeypatch):
    Path("shards").mkdir()
    shard = pictures()[0]

    def ending(*_):
        raise SystemExit

    with monkeypatch.context() as patch:
        patch.setattr(shards.parquet, "write", ending)
        for _ in range(shards.TRIES):
            with pytest.raises(SystemExit):
                shards.write(judge, shard, Path("shards"), "one")
    told = f"3 processes ended at the {len(shard.cells)} pictures from {shard.cells[0]} to {shard.cells[-1]}"
    with pytest.raises(RunError, match=re.escape(told)) as error:
        shards.write(judge, shard, Path("shards"), "one")
    assert "without --on ray" in error.value.hint
    assert shards.write(judge, shard, Path("shards"), "two").rows == len(shard.cells), "another command tries again"
    assert not list(Path("shards").glob("*.two.tries"))


def test_what_is_there_is_replaced_when_told_so_alone(judge, raw):
    spread(judge)
    with pytest.raises(DataError, match="this folder exists"):
        spread(judge)
    with (
        pytest.raises(RunError, match="model was"),
        shards.going_to(Path("out"), {"model": "b"}, resume=True, overwrite=False),
    ):
        pass
    assert len(spread(judge, overwrite=True)[0]) == len(pictures())
    shutil.rmtree(TABLE)
    TABLE.write_text("rows of the local command", encoding="utf-8")
    for resume in (True, False):
        with pytest.raises(DataError, match="not made with --on ray"):
            spread(judge, resume=resume)
    spread(judge, overwrite=True)
    assert len(rows()) == 31


@pytest.mark.parametrize("name", ["predictions.csv", "predictions.csv.part"])
def test_rows_of_another_model_are_not_beside_these(name):
    Path("out").mkdir()
    (Path("out") / name).write_text("path,status\n", encoding="utf-8")
    for again in ({"resume": True, "overwrite": False}, {"resume": False, "overwrite": True}):
        with (
            pytest.raises(DataError, match="not made with --on ray") as error,
            shards.going_to(Path("out"), MADE_WITH, **again),
        ):
            pass
        assert error.value.where == Path("out") / name
    assert [file.name for file in Path("out").iterdir()] == [name]


def test_an_overwrite_that_was_killed_at_its_beginning():
    """Shards of one model are never taken for those of another."""
    TABLE.mkdir(parents=True)
    write_notes(TABLE, {"model": "a"})
    (TABLE / "part-000000-abc.parquet").touch()

    def going(model, **again):
        return shards.going_to(Path("out"), {"model": model}, **{"resume": False, "overwrite": False, **again})

    with pytest.MonkeyPatch.context() as patch:

        def killed(*arguments):
            write_notes(*arguments)
            raise KeyboardInterrupt

        patch.setattr(shards, "write_notes", killed)
        with pytest.raises(KeyboardInterrupt), going("b", overwrite=True):
            pass
    with going("b", resume=True) as kept:
        assert kept.folder.is_dir(), "they are begun anew"
        assert list(kept.folder.iterdir()) == []
    assert [file.name for file in TABLE.iterdir()] == ["part-000000-abc.parquet"]
    with pytest.raises(RunError, match="model was"), going("a", resume=True):
        pass


def test_stopped_while_shards_are_put_in_order(judge, raw, monkeypatch):
    made = []

    def stopping(source, target):
        if len(made) == 2:
            raise KeyboardInterrupt
        made.append(target)
        os.replace(source, target)

    (raw / "class_1" / "broken.png").unlink()
    with shards.going_to(Path("out"), MADE_WITH, resume=False, overwrite=False) as kept:
        for shard in kept.missing(pictures()):
            shards.write(judge, shard, kept.folder, "one")
        parts = pictures()
        with monkeypatch.context() as patch:
            patch.setattr(shards, "replace", stopping)
            with pytest.raises(KeyboardInterrupt):
                kept.finish(parts)
    assert spread(judge, resume=True)[0] == []
    assert_same(rows(), local())


@pytest.mark.slow
def test_a_gate_sets_and_abstentions_are_those_of_the_local_command(tiny_recipe, raw):
    """What the gate said of one shard must not be taken for what it says of the next."""
    tiny_recipe()
    train = ["train", "tiny.yaml", "--set", "train.epochs=1", "--quiet", "--folds", "2", "--out"]
    for more in (["runs/folds"], ["runs/gate", "--set", "evaluate.negative_class=class_0"]):
        assert CliRunner().invoke(app, [*train, *more]).exit_code == 0
    file = Run(Path("runs/folds")).model_file
    tensors, info = checkpoint.load_model_file(file)
    info["uncertainty"]["abstentions"] = [[0.2, 0.4]]
    checkpoint.save_model_file(file, tensors, info)
    open_one = partial(open_model, device="cpu", fast=True, draft=True)
    told = partial(open_judge, open_one, "runs/folds", "runs/gate", sets=True, abstain=0.2)
    spread(told())
    found = rows()
    assert len({row["p_finding"] for row in found}) > len(pictures())
    assert any(row["set"] for row in found)
    options = ["--model", "runs/folds", "--gate", "runs/gate", "--sets", "--abstain", "0.2"]
    assert_same(found, local(*options))


def test_names_of_shards_outlive_a_power_cut_before_that_of_their_folder(judge, raw, monkeypatch):
    synced = []
    monkeypatch.setattr(shards, "sync_folder", lambda folder: synced.append((folder, folder.is_dir(), TABLE.exists())))
    spread(judge)
    assert synced == [(PART, True, False), (TABLE.parent, True, True)]


def test_told_is_found_again(judge, raw):
    Path("shards").mkdir()
    shard = pictures()[0]
    told = shards.write(judge, shard, Path("shards"), "one")
    found = shards.told_of(Path("shards") / f"{shard.key}.parquet")
    assert replace(found, cautions=dict(found.cautions)) == replace(told, cautions=dict(told.cautions))
    assert shards.told_of(Path("shards/none.parquet")) is None


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ((), "--on ray goes with --out DIR"),
        (("--out", "out", "--cam", "maps"), "--on ray writes Parquet"),
        (("--out", "out", "--json"), "--on ray writes Parquet"),
        (("--out", "out", "--report", "a.html"), "--on ray writes Parquet"),
        (("--out", "out", "--strict"), "--on ray writes Parquet"),
        (("--out", "out", "--device", "cuda"), "--on ray is for classifiers, on CPUs"),
        (("--out", "out", "--detector", "a"), "--on ray is for classifiers, on CPUs"),
    ],
)
def test_what_does_not_go_with_a_cluster_is_refused(options, told, monkeypatch):
    with_ray(monkeypatch)
    done = CliRunner().invoke(app, ["predict", "raw", "--on", "ray", *options])
    assert done.exit_code == 2
    assert told in done.stderr


def test_without_ray_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    done = CliRunner().invoke(app, ["predict", "raw", "--on", "ray", "--out", "out"])
    assert done.exit_code == 7
    assert "fxcli[ray]" in done.stderr
