"""DICOM through the commands: predict, cam, prepare, train, evaluate; and not a word of whom it shows."""

import csv
import io
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from fxcli.cli import app
from fxcli.data.manifest import read_manifest

pydicom, dicoms = pytest.importorskip("pydicom"), pytest.importorskip("dicoms")
save, radiograph = dicoms.save, dicoms.radiograph

SECRETS = (b"SECRET", b"Secret", b"1.2.826.0.1.3680043.8.498")


def fx(*arguments, code=0):
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert done.exit_code == code, done.output
    return done


def rows_of(text):
    return list(csv.DictReader(io.StringIO(text)))


def by_name(done):
    return {Path(row["path"]).name: row for row in rows_of(done.stdout)}


def secrets_below(folder):
    return [
        (str(file), secret)
        for file in Path(folder).rglob("*")
        for secret in SECRETS
        if file.is_file() and (secret in file.read_bytes() or secret in file.name.encode())
    ]


@pytest.fixture
def hospital():
    """A folder as a hospital exports it."""
    folder = Path("hospital")
    folder.mkdir()
    deep = radiograph(12)
    save(folder / "plain.dcm", deep, bits=12)
    save(folder / "mono1.dcm", 4095 - deep, bits=12, PhotometricInterpretation="MONOCHROME1")
    save(folder / "window.dcm", deep, bits=12, WindowCenter=2000, WindowWidth=3000)
    save(folder / "raw.dcm", deep, bits=12, PresentationIntentType="FOR PROCESSING")
    save(folder / "frames.dcm", np.stack([deep, deep]), bits=12, NumberOfFrames=2)
    save(folder / "empty.dcm", deep, bits=12, without=["PixelData"])
    dicoms.as_jpeg(save(folder / "jpeg.dcm", radiograph(8)))
    shutil.copy(dicoms.BUNDLED / "CT_small.dcm", folder / "ct.dcm")
    return folder


def test_predict(trained, hospital):
    done = fx("predict", hospital, code=9)
    rows = by_name(done)
    assert {name: row["status"] for name, row in rows.items() if row["status"] != "ok"} == {
        "ct.dcm": "error",
        "empty.dcm": "error",
    }
    assert rows["ct.dcm"]["reason"] == "CT (CT Image Storage), not a radiograph"
    assert rows["raw.dcm"]["reason"].startswith("FOR PROCESSING")
    assert rows["frames.dcm"]["reason"] == "the first of several pictures in one file"
    assert rows["plain.dcm"]["reason"] == ""
    assert "warning: 1 picture: the first of several pictures in one file" in done.stderr
    assert "2 of 8 pictures could not be used" in done.stderr
    assert rows["mono1.dcm"]["p_class_0"] == rows["plain.dcm"]["p_class_0"] == rows["frames.dcm"]["p_class_0"]
    assert rows["window.dcm"]["p_class_0"] != rows["plain.dcm"]["p_class_0"]
    assert not any(secret.decode() in done.output for secret in SECRETS)


def test_cam(trained, hospital):
    done = fx("cam", hospital / "frames.dcm", hospital / "ct.dcm", "--out", "why", code=9)
    rows = by_name(done)
    assert rows["frames.dcm"]["reason"] == "the first of several pictures in one file"
    assert rows["ct.dcm"]["status"] == "error"
    assert "warning: 1 picture" in done.stderr
    assert secrets_below("why") == []


@pytest.mark.parametrize("command", ["predict", "cam"])
def test_without_pydicom_rows_say_what_to_install(trained, hospital, monkeypatch, command):
    for name in ("a.jpg", "z.jpg"):
        Image.fromarray(radiograph(8)).save(hospital / name)
    for name in [name for name in sys.modules if name.split(".")[0] == "pydicom"]:
        monkeypatch.setitem(sys.modules, name, None)
    rows = by_name(fx(command, hospital, code=9))
    assert {rows.pop(name)["status"] for name in ("a.jpg", "z.jpg")} == {"ok"}
    told = "reading DICOM needs the package pydicom, which is not installed: python -m pip install 'fxcli[dicom]'"
    assert len(rows) == 8
    assert {row["reason"] for row in rows.values()} == {told}
    done = fx("predict", hospital, "--strict", code=4)
    assert told in done.stderr


@pytest.fixture
def study():
    """Two classes; patients with two pictures each, in one study or in two; and pictures of nobody."""
    for label in ("one", "two"):
        Path("source", label).mkdir(parents=True)
    for patient in range(12):
        for picture in range(2):
            options = {"PatientID": f"SECRET-{patient}", "StudyInstanceUID": f"1.2.826.0.1.3680043.8.498.{patient}"}
            if patient == 3:
                options["StudyInstanceUID"] += f".{picture}"
            if patient == 4:
                options["PatientID"] = f"SECRET-{patient}-{picture}"
            if patient == 5:
                options |= {"PatientID": "", "PatientName": "", "StudyInstanceUID": ""}
            label = "one" if patient % 2 else "two"
            stored = radiograph(12, seed=2 * patient + picture)
            save(Path("source", label, f"{patient}_{picture}.dcm"), stored, bits=12, **options)
    return Path("source")


SETS = ("--set", "data.prepared_px=64", "--set", "data.workers=0", "--set", "audit.search=false")


@pytest.mark.slow
def test_patients_and_studies_become_groups(study):
    done = fx("prepare", study, "--out", "out", *SETS)
    manifest = read_manifest(Path("out/manifest.csv"))
    assert len(manifest.rows) == 24
    pairs = {}
    for row in manifest.rows:
        pairs.setdefault(Path(row.source).stem.split("_")[0], []).append(row)
    for patient, (a, b) in pairs.items():
        # Of patient 3 the studies differ, of 4 the ids; of 5 nothing is known.
        assert (a.patient == b.patient != "") == (patient not in "45")
        assert (a.column("study") == b.column("study") != "") == (patient not in "35")
        assert (a.group == b.group) == (patient != "5")
        assert patient == "5" or a.split == b.split
    assert {row.patient[0] for row in manifest.rows if row.patient} == {"p"}
    assert len({row.group for row in manifest.rows}) == 13
    assert secrets_below("out") == []
    assert not any(secret.decode() in done.output for secret in SECRETS)
    # Stable: the same source gives the same numbers.
    fx("prepare", study, "--out", "again", *SETS)
    assert Path("again/manifest.csv").read_bytes() == Path("out/manifest.csv").read_bytes()


def test_a_column_of_the_list_goes_before_what_files_say(study):
    files = sorted(study.rglob("*.dcm"))
    lines = [f"{file},{file.parent.name},all,mine{index}\n" for index, file in enumerate(files)]
    Path("list.csv").write_text("path,label,patient,study\n" + "".join(lines))
    done = fx("prepare", "list.csv", "--out", "out", *SETS, "--set", "split.val_frac=0", code=4)
    assert "24 of 24 pictures say that they are of one patient" in done.stderr
    Path("list.csv").write_text("path,label,study\n" + "".join(line.replace(",all", "") for line in lines))
    fx("prepare", "list.csv", "--out", "out", *SETS)
    rows = read_manifest(Path("out/manifest.csv")).rows
    assert {row.column("study") for row in rows} == {f"mine{index}" for index in range(24)}
    assert len({row.patient for row in rows}) == 13


def test_one_study_uid_in_all_files_is_told(study):
    """A program that made them anonymous may have written it."""
    for number, file in enumerate(sorted(study.rglob("*.dcm"))):
        made = pydicom.dcmread(file)
        made.PatientID, made.StudyInstanceUID = f"p{number}", "1.2.3"
        made.save_as(file)
    done = fx("prepare", study, "--out", "out", *SETS, code=4)
    assert "24 of 24 pictures say that they are of one study, and so share a group" in done.stderr


def test_a_list_with_some_patients_is_joined_with_what_files_say(study):
    files = sorted(study.rglob("*.dcm"))
    listed = [f"mine{file.stem.partition('_')[0]}" if file.stem.endswith("_1") else "" for file in files]
    lines = [f"{file},{file.parent.name},{who}\n" for file, who in zip(files, listed, strict=True)]
    Path("list.csv").write_text("path,label,patient\n" + "".join(lines))
    fx("prepare", "list.csv", "--out", "out", *SETS)
    rows = read_manifest(Path("out/manifest.csv")).rows
    groups = {Path(row.source).stem: row.group for row in rows}
    patients = {Path(row.source).stem: row.patient for row in rows}
    # Of patient 3 the studies differ, of 5 nothing is known but to the list.
    assert groups["3_0"] == groups["3_1"]
    assert patients["3_0"] == patients["3_1"]
    assert len(set(groups.values())) == 13


@pytest.mark.slow
def test_no_name_leaves_the_source(study, demo_zoo):
    """Prepared under hashed names, trained, measured, predicted, drawn and exported: not one id in any file."""
    named = Path("named")
    shutil.copytree(study, named)
    for file in sorted(named.rglob("*.dcm")):
        file.rename(file.with_name(f"Secret_{file.name}"))
    fx("prepare", named, "--out", "plain", *SETS)
    assert secrets_below("plain"), "names of files are told unless they are hashed"
    outputs = [fx("prepare", named, "--out", "out", "--paths", "hashed", *SETS)]
    Path("tiny.yaml").write_text(
        "data: {manifest: out/manifest.csv, workers: 0}\nmodel: {backbone: demo_tiny, init: random}\n"
        "train: {epochs: 1, batch_size: 8}\n"
    )
    outputs.append(fx("train", "tiny.yaml", "--out", "runs/a"))
    outputs.append(fx("evaluate", "runs/a", "--split", "val", "--study", "study", "--out", "measured"))
    (named / "one" / "Secret_bad.dcm").write_bytes(b"no picture")
    arguments = ("--model", "runs/a", "--paths", "hashed", "--cam", "maps", "--out", "answers")
    outputs.append(fx("predict", named, *arguments, code=9))
    outputs.append(fx("predict", named, "--model", "runs/a", "--paths", "hashed", "--json", code=9))
    outputs.append(fx("cam", named / "two", "--model", "runs/a", "--paths", "hashed", "--out", "why"))
    for folder in ("out", "runs", "measured", "maps", "answers", "why"):
        assert any(Path(folder).rglob("*"))
        assert secrets_below(folder) == []
    for done in outputs:
        assert not any(secret.decode() in done.output for secret in SECRETS)
    rows = rows_of(Path("answers/predictions.csv").read_text())
    sources = {row.source for row in read_manifest(Path("out/manifest.csv")).rows}
    assert sources < {row["path"] for row in rows}, "prepare and predict have one name for a picture"
    assert {path.name for path in Path("maps").iterdir()} == {f"{row['path']}.png" for row in rows if row["class"]}


def test_paths_relative_to_the_folder(trained, hospital):
    done = fx("predict", hospital.resolve(), "--paths", "relative", "--quiet", code=9)
    assert {row["path"] for row in rows_of(done.stdout)} == {file.name for file in hospital.iterdir()}


def test_prepare_lists_cautions(study):
    save(study / "one" / "frames.dcm", np.stack([radiograph(12)] * 2), bits=12, NumberOfFrames=2, PatientID="SECRET")
    done = fx("prepare", study, "--out", "out", "--json", *SETS)
    expected = [{"path": "one/frames.dcm", "reason": "the first of several pictures in one file"}]
    assert json.loads(done.stdout)["warnings"] == expected
    assert json.loads(Path("out/fingerprint.json").read_text())["warnings"] == expected
    assert "warning: 1 picture: the first of several" in done.stderr


@pytest.mark.slow
def test_what_prepare_writes_is_what_predict_sees(study):
    from fxcli.data.preprocess import Clean
    from fxcli.data.read import read

    save(study / "one" / "inverted.dcm", radiograph(12), bits=12, PhotometricInterpretation="MONOCHROME1")
    fx("prepare", study, "--out", "out", *SETS)
    manifest, clean = read_manifest(Path("out/manifest.csv")), Clean(64)
    for row in manifest.rows:
        raw, prepared = study / row.source, manifest.path_of(row)
        assert np.array_equal(clean(read(raw), raw).pixels, clean(read(prepared), prepared).pixels)
