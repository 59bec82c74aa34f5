"""Tables as Parquet, as commands write and take them: beside the CSV, with its rows."""

import csv
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from fxcli.cli import app
from fxcli.run.directory import Run
from fxcli.testing import tiny_dataset

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

TABLE = Path("out/predictions.parquet")


def fx(*arguments, code=0):
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert done.exit_code == code, done.output
    return done


def predict(*arguments, code=0):
    return fx("predict", *arguments, "--model", "runs/trained", "--quiet", code=code)


def cells(file):
    with Path(file).open(newline="", encoding="utf-8") as handle:
        return list(csv.DictReader(handle))


def as_cells(table, decimals=6):
    """Rows of Parquet as a CSV has them."""

    def cell(value):
        if isinstance(value, bool):
            return str(value).lower()
        return "" if value is None else f"{value:.{decimals}f}" if isinstance(value, float) else str(value)

    return [{name: cell(value) for name, value in row.items()} for row in pq.read_table(table).to_pylist()]


@pytest.fixture
def raw():
    folder = tiny_dataset(Path("raw"), per_class=3)
    (folder / "class_1" / "broken.png").write_bytes(b"nothing")
    return folder


def test_predictions_lie_beside_the_csv_in_typed_columns(trained, raw):
    predict(raw, "--out", "out", "--parquet", code=9)
    assert as_cells(TABLE) == cells("out/predictions.csv")
    types = {field.name: field.type for field in pq.read_schema(TABLE)}
    assert types["p_class_0"] == pa.float64()
    assert types["assumes_fracture"] == pa.bool_()
    bad = [row for row in pq.read_table(TABLE).to_pylist() if row["status"] == "error"]
    assert [(Path(row["path"]).name, row["class"], row["p_class_0"]) for row in bad] == [("broken.png", None, None)]


def test_complete_rows_become_parquet_without_being_predicted_again(trained, raw):
    (raw / "class_1" / "broken.png").unlink()
    predict(raw, "--out", "out")
    assert not TABLE.exists()
    told = fx("predict", raw, "--model", "runs/trained", "--out", "out", "--resume", "--parquet").stderr
    assert "nothing is missing" in told
    assert as_cells(TABLE) == cells("out/predictions.csv")
    shutil.copy(raw / "class_0" / "0.png", raw / "class_0" / "9.png")
    predict(raw, "--out", "out", "--resume", "--parquet")
    assert as_cells(TABLE) == cells("out/predictions.csv")
    assert len(cells("out/predictions.csv")) == 10
    # Rows that are not wanted as Parquet leave none of earlier ones.
    predict(raw / "class_0", "--out", "out", "--overwrite")
    assert not TABLE.exists()


def test_what_is_there_is_replaced_when_told_so_alone(trained, raw):
    Path("out").mkdir()
    TABLE.write_text("mine", encoding="utf-8")
    done = predict(raw, "--out", "out", "--parquet", code=4)
    assert "predictions.parquet: this file exists" in done.stderr
    assert TABLE.read_text(encoding="utf-8") == "mine"
    TABLE.unlink()
    TABLE.mkdir()
    assert "--on ray" in predict(raw, "--out", "out", "--parquet", "--overwrite", code=4).stderr


@pytest.mark.slow
def test_a_table_that_is_all_there_is_outlives_a_prediction_without_parquet(trained, raw):
    (raw / "class_1" / "broken.png").unlink()
    predict(raw, "--out", "out", "--parquet")
    kept = TABLE.read_bytes()
    # Nothing changed: it is still right.
    predict(raw, "--out", "out", "--resume")
    assert TABLE.read_bytes() == kept
    Path("out/predictions.csv").unlink()
    for more in ((), ("--resume",), ("--parquet", "--resume")):
        assert "this file exists, and no rows beside it" in predict(TABLE, "--out", "out", *more, code=4).stderr
    assert TABLE.read_bytes() == kept
    predict(raw / "class_0", "--out", "out", "--overwrite")
    assert not TABLE.exists()
    TABLE.mkdir()
    assert "--on ray" in predict(raw, "--out", "out", "--overwrite", code=4).stderr


def test_a_folder_of_lists_may_end_in_a_slash(trained, raw):
    Path("many.parquet").mkdir()
    pq.write_table(pa.table({"path": ["raw/class_0/0.png"]}), "many.parquet/1.parquet")
    rows = list(csv.DictReader(predict(f"many.parquet{os.sep}").stdout.splitlines()))
    assert [row["path"] for row in rows] == ["raw/class_0/0.png"]


@pytest.mark.parametrize("options", [(), ("--out", "out", "--json")])
def test_parquet_goes_with_a_csv_in_a_folder(options):
    assert "--parquet goes with --out DIR" in fx("predict", "raw", "--parquet", *options, code=2).stderr


def test_without_pyarrow_nothing_is_begun(trained, raw, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.delitem(sys.modules, "pyarrow.csv", raising=False)
    monkeypatch.delitem(sys.modules, "pyarrow.parquet", raising=False)
    done = predict(raw, "--out", "out", "--parquet", code=7)
    assert "fxcli[parquet]" in done.stderr
    assert not Path("out").exists()
    assert "fxcli[parquet]" in fx("prepare", "list.parquet", "--parquet", code=7).stderr


def test_a_list_is_predicted_in_its_order_and_what_is_gone_is_a_row(trained, raw):
    paths = ["raw/class_2/1.png", "gone.png", "raw/class_0/0.png"]
    pq.write_table(pa.table({"path": paths, "site": ["a", "b", "c"]}), "list.parquet")
    done = predict("list.parquet", code=9)
    rows = list(csv.DictReader(done.stdout.splitlines()))
    assert [row["path"] for row in rows] == paths
    assert [row["status"] for row in rows] == ["ok", "error", "ok"]
    assert "no such file" in predict("absent.parquet", code=4).stderr.lower()


def test_predictions_are_a_list_of_their_pictures(trained, raw):
    (raw / "class_1" / "broken.png").unlink()
    shutil.copy(raw / "class_0" / "0.png", "=x.png")
    names = [raw, "./=x.png"]
    if sys.platform == "linux":
        shutil.copy(raw / "class_0" / "0.png", os.fsdecode(b"raw/class_0/\xff.png"))
    predict(*names, "--out", "out", "--parquet")
    predict(TABLE, "--out", "again", "--parquet")
    assert as_cells("again/predictions.parquet") == as_cells(TABLE)


def test_figures_of_an_evaluation_have_their_rows_as_parquet(trained):
    fx("evaluate", trained.path, "--split", "test", "--parquet", "--quiet")
    file = trained.path / "predictions" / "test.parquet"
    for row, expected in zip(pq.read_table(file).to_pylist(), cells(file.with_suffix(".csv")), strict=True):
        assert row["path"] == expected["path"]
        assert row["label"] == expected["label"]
        assert row["p_class_1"] == float(expected["p_class_1"])
        assert str(np.float32(row["logit_class_1"])) == expected["logit_class_1"]
    fx("evaluate", trained.path, "--split", "test", "--quiet")
    assert not file.exists()


@pytest.mark.slow
def test_boxes_are_lists_of_boxes(tiny_detect):
    tiny_detect("train.epochs=1")
    fx("train", "boxes.yaml", "--out", "runs/boxed", "--quiet")
    folder = Run(Path("runs/boxed")).manifest_file.parent
    fx(
        "predict",
        folder / "pictures",
        "--model",
        "runs/boxed",
        "--out",
        "out",
        "--parquet",
        "--score",
        "0.01",
        "--quiet",
    )
    rows = pq.read_table(TABLE).to_pylist()
    assert any(row["boxes"] for row in rows)
    assert all(set(box) == {"class", "score", "left", "top", "right", "bottom"} for row in rows for box in row["boxes"])
    fx("evaluate", "runs/boxed", "--split", "val", "--parquet", "--quiet")
    assert "n_boxes" in pq.read_schema("runs/boxed/predictions/val.parquet").names


def test_a_prepared_folder_from_parquet_is_that_from_the_csv():
    tiny_dataset(Path("raw"), per_class=6)
    rows = [(path.as_posix(), path.parent.name, f"patient {path.stem}") for path in sorted(Path("raw").rglob("*.png"))]
    columns = dict(zip(("path", "label", "patient"), map(list, zip(*rows, strict=True)), strict=True))
    pq.write_table(pa.table({**columns, "age": list(range(len(rows)))}), "list.parquet")
    with Path("list.csv").open("w", newline="", encoding="utf-8") as handle:
        csv.writer(handle).writerows([["path", "label", "patient", "age"], *([*r, i] for i, r in enumerate(rows))])
    for name in ("list.csv", "list.parquet"):
        sets = ("--set", "data.prepared_px=64", "--set", "audit.search=false")
        fx("prepare", name, *sets, "--out", Path("prepared") / name, "--parquet", "--quiet")
    made = cells("prepared/list.csv/manifest.csv")
    assert cells("prepared/list.parquet/manifest.csv") == made
    table = Path("prepared/list.csv/manifest.parquet")
    assert pq.read_schema(table).field("width_px").type == pa.int64()
    assert as_cells(table) == made


@pytest.mark.slow
def test_a_manifest_may_be_parquet(tiny_recipe, prepared):
    from fxcli.data import parquet
    from fxcli.data.manifest import kind_of, read_manifest

    shutil.copytree(prepared, "prepared")
    manifest = read_manifest(Path("prepared/manifest.csv"))
    parquet.beside(manifest.file, kind_of)
    same = read_manifest(Path("prepared/manifest.parquet"))
    assert same.rows == manifest.rows
    tiny_recipe()
    fx("train", "tiny.yaml", "--set", "data.manifest=prepared/manifest.parquet", "--out", "runs/a", "--quiet")
    assert cells("runs/a/manifest.csv") == cells("prepared/manifest.csv")
    fx("evaluate", "runs/a", "--split", "test", "--quiet")
    fx("evaluate", "runs/a", "--split", "test", "--data", "prepared/manifest.parquet", "--out", "b", "--quiet")
