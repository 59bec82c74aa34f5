"""Where rows go: a file is complete or has no name, whatever stopped it, and nothing is done or lost twice."""

import json
import os
import time
from pathlib import Path

import pytest
from rowfiles import FILE, MADE_WITH, NOTES, OUT, PART, Stopped, going, names, predict, shown, stopped, table, twelve

from fxcli.data.paths import PathStyle, Shown
from fxcli.errors import DataError, FxError, RunError
from fxcli.inference import rows as output
from fxcli.inference.notes import named_by


@pytest.fixture
def files():
    return twelve()


def test_the_name_appears_when_it_is_complete(files):
    with going() as rows:
        assert list(rows.missing(files, str, lambda index, is_answer: True)) == list(range(12))
        assert names() == ["lock.json", "predictions.csv.part", "predictions.csv.part.json"]
        for path in files:
            rows.write({"path": str(path), "status": "error", "reason": "bad"})
        assert shown(PART) == list(map(str, files)), "a row is in the file as soon as it is written"
        rows.finish()
    assert names() == ["predictions.csv", "predictions.csv.json"]
    assert rows.failed == 12


@pytest.mark.parametrize("is_json", [False, True])
@pytest.mark.parametrize("after", [0, 1, 7, 11])
def test_stopped_and_resumed_is_as_if_it_had_not_been(files, after, is_json):
    predict(files, json=is_json)
    name, notes = names()
    whole = (OUT / name).read_bytes()
    os.remove(OUT / name)
    os.remove(OUT / notes)
    stopped(files, after, json=is_json)
    assert names() == ([f"{name}.part", f"{name}.part.json"] if after else [])
    assert predict(files, json=is_json, resume=True) == (list(range(after, 12)), 0)
    assert names() == [name, notes]
    assert (OUT / name).read_bytes() == whole


def test_resuming_what_never_began(files):
    assert predict(files, resume=True)[0] == list(range(12))


def test_a_torn_row_is_done_again(files):
    predict(files)
    whole = FILE.read_bytes()
    os.remove(FILE)
    stopped(files, 5)
    part = PART.read_bytes()
    PART.write_bytes(part + b'"in/f.p')
    assert predict(files, resume=True)[0] == list(range(5, 12))
    assert FILE.read_bytes() == whole
    os.remove(FILE)
    stopped(files, 5)
    PART.write_bytes(part[:-30])
    assert predict(files, resume=True)[0] == list(range(4, 12))
    assert FILE.read_bytes() == whole


def test_what_is_there_is_not_replaced_unasked(files):
    predict(files)
    for options in ({}, {"made_with": {"model": "new"}}):
        with pytest.raises(DataError, match=r"predictions\.csv: this file exists") as caught:
            predict(files, **options)
        assert "--overwrite" in caught.value.hint
    assert predict(files, overwrite=True, mark=0.5)[0] == list(range(12))
    assert table()[0]["p_y"] == "0.500000"
    assert predict(files, json=True)[0] == list(range(12)), "the other format has a file of its own"


def test_rows_of_a_stopped_prediction_are_not_thrown_away_unasked(files):
    stopped(files, 3)
    with pytest.raises(DataError, match="left 3 rows here") as caught:
        predict(files)
    assert "--resume goes on" in caught.value.hint
    assert len(shown(PART)) == 3
    assert predict(files, overwrite=True)[0] == list(range(12))


def test_a_stopped_overwrite_leaves_the_old_file(files):
    predict(files)
    old = FILE.read_bytes()
    stopped(files, 4, overwrite=True, mark=0.5)
    assert FILE.read_bytes() == old
    assert predict(files, resume=True, mark=0.5)[0] == list(range(4, 12))
    assert {row["p_y"] for row in table()} == {"0.500000"}


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"model": "xyz"}, 'model was "abc", and is "xyz"'),
        ({"abstain": 0.3}, "abstain was null, and is 0.3"),
        ({"sets": True, "new": 1}, "sets was false, and is true; new was null, and is 1"),
    ],
)
def test_rows_of_two_kinds_are_never_mixed(files, changed, told):
    stopped(files, 3)
    with pytest.raises(RunError) as caught:
        predict(files, resume=True, made_with=MADE_WITH | changed)
    assert told in str(caught.value)
    assert len(shown(PART)) == 3
    assert predict(files, resume=True)[0] == list(range(3, 12))


SAVED = {
    "with a column more": lambda text: text.replace(b"path,", b"radiograph,path,", 1),
    "with a column less": lambda text: text.replace(b",notice", b"", 1),
    "by Windows": lambda text: text.replace(b"\n", b"\r\n"),
    "with a mark before it": lambda text: b"\xef\xbb\xbf" + text,
}


@pytest.mark.parametrize("again", SAVED.values(), ids=SAVED)
@pytest.mark.parametrize("is_complete", [False, True])
def test_rows_that_were_saved_otherwise_are_not_thrown_away(files, again, is_complete):
    predict(files) if is_complete else stopped(files, 5)
    file = FILE if is_complete else PART
    file.write_bytes(kept := again(file.read_bytes()))
    before = names()
    for resume in (True, False):
        with pytest.raises(FxError) as caught:
            predict([*files, Path("new.png")], resume=resume)
        assert caught.value.where == file
        assert ("other columns" in str(caught.value)) == (resume or not is_complete)
        assert file.read_bytes() == kept
        assert names() == before
    assert predict(files, overwrite=True)[0] == list(range(12))


@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.parametrize("is_complete", [False, True])
def test_rows_of_another_model_with_other_columns(files, resume, is_complete):
    predict(files) if is_complete else stopped(files, 5)
    file = FILE if is_complete else PART
    kept, notes = file.read_bytes(), NOTES.exists() and NOTES.read_bytes()
    with pytest.raises(FxError) as caught:
        predict(files, made_with={**MADE_WITH, "model": "xyz"}, extra=["p_finding"], resume=resume)
    assert ('model was "abc", and is "xyz"' in str(caught.value)) == (resume or not is_complete)
    assert file.read_bytes() == kept
    assert (NOTES.exists() and NOTES.read_bytes()) == notes


@pytest.mark.parametrize("head", [b"", b"path,sta", b"path,status,re\0\0\0\0", b"\0" * 400])
def test_a_head_that_was_cut_short(files, head):
    stopped(files, 5)
    PART.write_bytes(head)
    assert predict(files)[0] == list(range(12))


@pytest.mark.parametrize("notes", [None, "", "[]", "{}", '{"started": "x"}', "[" * 100_000])
def test_rows_of_which_nothing_is_known(files, notes):
    stopped(files, 3)
    NOTES.unlink() if notes is None else NOTES.write_text(notes)
    with pytest.raises(RunError, match="nothing tells what these rows were made with"):
        predict(files, resume=True)
    assert len(shown(PART)) == 3


def test_what_names_are_relative_to_is_told_without_its_name(files, tmp_path, monkeypatch):
    absolute = [path.absolute() for path in files]

    def noted(style, paths):
        return named_by(Shown.of(style, paths), paths)["folder_sha256"]

    given, relative = noted(PathStyle.GIVEN, files), noted(PathStyle.RELATIVE, files)
    assert relative == noted(PathStyle.RELATIVE, absolute) != noted(PathStyle.RELATIVE, [*files, Path("x.png")])
    assert noted(PathStyle.GIVEN, absolute) is noted(PathStyle.HASHED, files) is None
    assert all(len(told) == 64 and set(told) <= set("0123456789abcdef") for told in (given, relative))
    monkeypatch.chdir(tmp_path.parent)
    assert noted(PathStyle.GIVEN, files) != given
    assert noted(PathStyle.RELATIVE, absolute) == relative


def test_complete_and_resumed(files, capsys):
    predict(files, failing=())
    before = FILE.read_bytes()
    assert predict(files, resume=True) == ([], 0)
    assert "nothing is missing" in capsys.readouterr().err
    assert FILE.read_bytes() == before
    assert names() == ["predictions.csv", "predictions.csv.json"]


@pytest.mark.parametrize("changed", [{"model": "xyz"}, {"sets": True}])
def test_complete_and_resumed_with_something_else(files, changed):
    predict(files)
    before = FILE.read_bytes()
    with pytest.raises(RunError, match="these rows were made with something else"):
        predict(files, resume=True, made_with=MADE_WITH | changed)
    assert (names(), FILE.read_bytes()) == (["predictions.csv", "predictions.csv.json"], before)
    notes = Path("out", "predictions.csv.json")
    notes.unlink()
    with pytest.raises(RunError, match="nothing tells what these rows were made with"):
        predict(files, resume=True)
    assert FILE.read_bytes() == before


def test_complete_and_no_longer(files):
    """A picture could not be read, one was replaced, one has lost its heat map, one went, one came."""
    predict([path for path in files if path.name != "h.png"], failing={"b.png"}, mark=0.75)
    before = FILE.read_bytes()
    files[3].touch()
    now = [path for path in files if path.name != "f.png"]
    with pytest.raises(Stopped):
        predict(now, resume=True, mark=0.5, stop_after=1)
    assert FILE.read_bytes() == before, "it stays until another is complete"
    todo, failed = predict(now, resume=True, mark=0.5, drawn=lambda index, is_answer: now[index].name != "e.png")
    assert ([now[index].name for index in todo], failed) == (["d.png", "e.png", "h.png"], 0)
    assert shown() == list(map(str, now))
    assert [row["p_y"] for row in table()].count("0.500000") == 4
    assert names() == ["predictions.csv", "predictions.csv.json"]


def test_killed_between_the_name_of_the_rows_and_that_of_their_notes(files, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(output, "keep_notes", lambda _: (_ for _ in ()).throw(Stopped))
        with pytest.raises(Stopped):
            predict(files)
    assert names() == ["predictions.csv", "predictions.csv.part.json"]
    assert predict(files, resume=True) == ([], 0)
    assert names() == ["predictions.csv", "predictions.csv.json"]


def killed(files, monkeypatch, name, **options):
    """As a kill leaves it: nothing is tidied up. Killed after the call of this name in `output`."""
    real = getattr(output, name)

    def killing(*arguments, **more):
        made = real(*arguments, **more)
        if name == "Growing":
            made.handle.close()
        raise Stopped

    with monkeypatch.context() as patch:
        patch.setattr(output, name, killing)
        with pytest.raises(Stopped):
            predict(files, **options)


OTHER = MADE_WITH | {"model": "xyz"}


@pytest.mark.parametrize("name", ["write_notes", "Growing"])
@pytest.mark.parametrize("after", [None, 3])
def test_an_overwrite_that_was_killed_before_its_first_row(files, monkeypatch, name, after):
    """Only who says --overwrite replaces rows, and none is ever taken for one of another model."""
    if after is None:
        predict(files)
    else:
        stopped(files, after)
    before = FILE.read_bytes() if after is None else b""
    killed(files, monkeypatch, name, overwrite=True, made_with=OTHER)
    if after is None:
        third = MADE_WITH | {"model": "third"}
        with pytest.raises(RunError, match='model was "abc", and is "third"'):
            predict(files, resume=True, made_with=third)
        assert FILE.read_bytes() == before
        assert predict(files, resume=True) == ([], 0), "one may go on with what was to be replaced"
        assert FILE.read_bytes() == before
        killed(files, monkeypatch, name, overwrite=True, made_with=OTHER)
    assert predict(files, resume=True, made_with=OTHER, mark=0.5) == (list(range(12)), 0)
    assert {row["p_y"] for row in table()} == {"0.500000"}
    assert predict(files, resume=True, made_with=OTHER) == ([], 0)
    assert names() == ["predictions.csv", "predictions.csv.json"]


# --- the folder is not as it was ---


def test_a_folder_that_grows_every_day(files):
    predict(files[:4])
    for number in (6, 9, 12):
        for path in files[number - 3 : number]:
            path.unlink()
            path.touch()
        time.sleep(0.02)
        assert predict(files[:number], resume=True)[0] == list(range(number - 3, number)), "what came before is done"
    files[0].touch()
    assert predict(files, resume=True)[0] == [0]


@pytest.mark.parametrize("is_json", [False, True])
def test_what_was_done_of_a_folder_that_grew_is_not_done_again(files, is_json):
    """A resume may be stopped, too, and more may come or change meanwhile."""

    def come(*paths):
        for path in paths:
            path.unlink()
            path.touch()
        time.sleep(0.02)

    def going_on(after):
        stopped(files, after, json=is_json, resume=True)
        time.sleep(0.02)

    predict(files[:6], json=is_json)
    come(files[0], *files[6:])
    going_on(0)
    going_on(1)
    going_on(2)
    come(files[6], files[1])
    going_on(1)
    assert predict(files, json=is_json, resume=True, mark=0.5)[0] == [6, 8, 9, 10, 11]
    assert predict(files, json=is_json, resume=True)[0] == []
    rows = list(map(json.loads, (OUT / "predictions.jsonl").read_text().splitlines())) if is_json else table()
    assert [row["path"] for row in rows] == list(map(str, files))


def test_a_picture_that_changed_while_others_were_asked_for_is_done_again(files):
    stopped(files, 6)
    files[0].unlink()
    files[0].touch()
    time.sleep(0.02)
    stopped(files[1:], 2, resume=True)
    assert predict(files, resume=True)[0] == [0, *range(8, 12)]


def test_pictures_that_came_and_went(files, capsys):
    stopped([path for path in files if path.name not in ("a.png", "d.png")], 4)
    left = [path for path in files if path.name != "c.png"]
    todo, _ = predict(left, resume=True)
    assert [left[index].name for index in todo] == ["a.png", "d.png", *(f"{letter}.png" for letter in "ghijkl")]
    assert shown() == list(map(str, left))
    told = capsys.readouterr().err
    assert "going on: 3 of 11 pictures have their row" in told
    assert "1 pictures that have a row are no longer here" in told
    assert names() == ["predictions.csv", "predictions.csv.json"]


def test_a_picture_that_was_replaced_is_done_again(files):
    stopped(files, 6, mark=0.75)
    files[2].unlink()
    files[2].touch()
    os.utime(files[2], (0, 0))
    todo, _ = predict(files, resume=True, mark=0.5)
    assert todo == [2, *range(6, 12)]
    assert [row["p_y"] for row in table()] == ["0.750000"] * 2 + ["0.500000"] + ["0.750000"] * 3 + ["0.500000"] * 6


def test_a_picture_that_could_not_be_read_is_tried_again(files):
    stopped(files, 6, failing={"b.png"})
    assert predict(files, resume=True, failing={"k.png"}) == ([1, *range(6, 12)], 1)
    assert shown() == list(map(str, files))
    assert [row["status"] for row in table()].count("error") == 1


def test_an_answer_without_its_heat_map_is_done_again(files):
    stopped(files, 6)
    assert predict(files, resume=True, drawn=lambda index, is_answer: index != 3)[0] == [3, *range(6, 12)]
    assert shown() == list(map(str, files))


def test_a_picture_that_is_listed_twice(files):
    twice = [*files, files[0], files[0]]
    stopped(twice, 3)
    assert predict(twice, resume=True)[0] == list(range(3, 12))
    assert shown() == list(map(str, twice))


def test_stopped_again_after_a_change(files):
    stopped(files[::2], 3)
    stopped(files, 4, resume=True)
    assert len(shown(PART)) == 7
    predict(files, resume=True)
    assert shown() == list(map(str, files))
