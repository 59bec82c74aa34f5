"""Files that were changed at random: each is used or refused with an error of fx, within a time limit.

A few hundred cases run by default, more than 10,000 with the slow tests; the same ones every time.
"""

import contextlib
import io
import json
import math
import shutil
import signal
import struct
import warnings
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin

from fxcli.data.manifest import read_manifest
from fxcli.data.preprocess import Clean
from fxcli.data.read import read
from fxcli.errors import FxError, ModelFileError
from fxcli.inference.opened import open_model
from fxcli.model.hardware import Compute
from fxcli.recipe.load import load, shipped
from fxcli.recipe.tasks import TASKS
from fxcli.run import checkpoint, directory
from fxcli.training import classify, loop, session, state

LIMIT_S = 20
FEW = 40
# Of each kind that the slow tests try.
MANY = {
    "recipe": 3000,
    "values": 1000,
    "training": 300,
    "manifest": 2500,
    "header": 1000,
    "bytes": 1000,
    "state": 500,
    "picture": 2500,
    "dicom": 2000,
}


def amounts(kind, few=FEW):
    return pytest.mark.parametrize("count", [few, pytest.param(MANY[kind], marks=pytest.mark.slow)])


def test_the_slow_tests_try_ten_thousand():
    assert sum(MANY.values()) >= 10_000


def fuzz(count, strategy, use):
    """Calls `use` with `count` drawn values; how many it took, and how many it refused with each class of error."""
    ends = {}

    def check(value):
        with limited():
            end = ending(use, value)
        ends[end] = ends.get(end, 0) + 1

    checks = list(HealthCheck)
    how = settings(
        max_examples=count,
        derandomize=True,
        database=None,
        deadline=timedelta(seconds=LIMIT_S),
        suppress_health_check=checks,
    )
    how(given(strategy)(check))()
    print(f"{sum(ends.values())} cases: {ends}")
    return ends


def ending(use, value):
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            use(value)
    except FxError as error:
        told = error
    else:
        return "used"
    assert told.exit_code in (2, 3, 4, 5, 6, 7), told
    assert "Traceback" not in str(told)
    assert len(str(told)) < 50_000
    return type(told).__name__


@contextlib.contextmanager
def limited():
    """Ends what takes too long: hypothesis looks at the clock only afterwards."""
    if not hasattr(signal, "setitimer"):
        yield
        return

    def late(*_):
        raise TimeoutError(f"more than {LIMIT_S} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, LIMIT_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


# --- changes ---

ODD_BYTES = (
    b"\x00",
    b"\xff",
    b"\xff\xff\xff\xff",
    b"\x00\x00\x00\x00",
    b"\x7f\xff\xff\xff",
    b"\x80\x00\x00\x00",
    b"\xff\xfe",
    b"\xef\xbb\xbf",
    b"9" * 30,
    b"-1",
    b"\xed\xa0\x80",
    b"x" * 300,
)
ODD_TEXT = (
    *(
        "{",
        "}",
        "[",
        "]",
        ":",
        ": ",
        "- ",
        ", ",
        "#",
        "&a ",
        "*a",
        "<<",
        "!!python/object:os.system",
        "|",
        ">",
        "%",
        "@",
    ),
    *(
        "\n",
        "\r",
        "\t",
        "  ",
        "\0",
        "\ufeff",
        "\u2028",
        "'",
        '"',
        "\\",
        "1e999",
        "-1e-999",
        ".nan",
        "-.inf",
        "null",
        "~",
    ),
    *("9" * 400, "0x10", "true", "../", "/etc/passwd", "C:", "=1+1", "é", "🦴", "x" * 400, "{" * 120, "? ", "---\n"),
)


def changed(seed, odd):
    """Strategies of a seed, bytes or text, with up to four places of it changed."""
    kinds = ("put", "over", "cut", "twice", "end")
    edit = st.tuples(
        st.sampled_from(kinds), st.integers(0, len(seed)), st.sampled_from(odd) | _like(seed), st.integers(1, 40)
    )

    def apply(edits):
        value = seed
        for kind, place, other, length in edits:
            rest = {"put": place, "over": place + len(other), "cut": place + length, "twice": place, "end": len(value)}
            middle = (
                value[place : place + length] if kind == "twice" else value[:0] if kind in ("cut", "end") else other
            )
            value = value[:place] + middle + value[rest[kind] :]
        return value

    return st.lists(edit, min_size=1, max_size=4).map(apply)


def _like(seed):
    return st.binary(min_size=1, max_size=4) if isinstance(seed, bytes) else st.text(min_size=1, max_size=4)


def one_of(seeds, odd):
    return st.sampled_from(range(len(seeds))).flatmap(lambda number: changed(seeds[number], odd))


ODD_VALUES = (
    *(None, True, False, 0, 1, -1, 2, 10**6, 10**18, -(10**30), 2**63, 0.5, -0.5, 1e-300, 1e300, math.inf, math.nan),
    *("", "x", "none", "all", "..", "/", "../x", "a\nb", "\0", "x" * 5000, "\ud800", "until:x", "cuda:99", "1"),
    *([], [1], [[]], [None], ["a", "a"], [1e300, 1e-300], {}, {"a": 1}, {"": {}}, [{}] * 3, list(range(50))),
)


# --- recipes ---


def leaves_of(value, key=()):
    """The keys of everything in a plain value, mappings and lists included."""
    yield key
    if isinstance(value, dict):
        for name, part in value.items():
            yield from leaves_of(part, (*key, name))
    elif isinstance(value, list):
        for number, part in enumerate(value[:5]):
            yield from leaves_of(part, (*key, number))


def replaced(value, key, other):
    if not key:
        return other
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[key[0]] = replaced(value[key[0]], key[1:], other)
    return copy


def with_odd_values(value):
    keys = list(leaves_of(value))[1:]
    one = st.tuples(st.sampled_from(keys), st.sampled_from(ODD_VALUES))

    def apply(changes):
        found = value
        for key, other in changes:
            # An earlier change may have taken this place away.
            with contextlib.suppress(KeyError, IndexError, TypeError):
                found = replaced(found, key, other)
        return found

    return st.lists(one, min_size=1, max_size=3).map(apply)


@pytest.mark.slow
@amounts("recipe")
def test_recipes(count):
    seeds = [file.read_text(encoding="utf-8") for file in shipped().values()]

    def use(text):
        Path("r.yaml").write_text(text, encoding="utf-8", errors="surrogatepass", newline="")
        load("r.yaml")

    ends = fuzz(count, one_of(seeds, ODD_TEXT), use)
    assert set(ends) == {"used", "RecipeError"}


@pytest.mark.slow
@amounts("values")
def test_values_in_recipes(count):
    complete = [load(name).recipe.model_dump(mode="json") for name in ("quickstart", "pretrain_simclr", "experiments")]
    assert {recipe["task"] for recipe in complete} < set(TASKS)

    def use(recipe):
        Path("r.yaml").write_text(json.dumps(recipe), encoding="utf-8")
        load("r.yaml")

    fuzz(count, st.sampled_from(complete).flatmap(with_odd_values), use)


# The ends of what a recipe may say, and beyond.
EXTREMES = {
    "data.cache": ("none", "memory", "disk"),
    "data.resize": ("letterbox", "squash", "crop"),
    "augment.hflip": (1,),
    "augment.rotate_deg": (180, 1e-300),
    "augment.translate_frac": (1,),
    "augment.scale": ("[0.001, 0.001]", "[1000, 1000]", "[0.001, 1000]", "[1e-300, 1]"),
    "augment.shear_deg": (89.999999,),
    "augment.brightness": (1,),
    "augment.contrast": (1,),
    "augment.elastic": (1e-300, 1000),
    "augment.crop_scale": ("[0.001, 0.001]", "[1, 1]"),
    "augment.erase": (1,),
    "augment.erase_scale": ("[0.001, 0.001]", "[1, 1]"),
    "augment.mixup": (1e-300, 1000),
    "augment.cutmix": (1e-300, 1000),
    "model.freeze": ("all", "until:stem"),
    "model.bn": ("eval",),
    "model.dropout": (0.9999999999,),
    "optim.name": ("adamw", "sgd"),
    "optim.lr": (1e-300, 1e300, 1e38),
    "optim.weight_decay": (1e300,),
    "optim.momentum": (0, 0.9999999999),
    "optim.head_lr_mult": (1e-300, 1e300),
    "optim.layer_decay": (1e-300,),
    "optim.clip_norm": (1e-300, 1e300),
    "schedule.name": ("onecycle", "cosine", "step", "constant"),
    "schedule.warmup_epochs": (1e-300, 1e6),
    "schedule.pct_start": (1e-300, 0.9999999999),
    "schedule.div_factor": (1, 1e300),
    "schedule.final_div_factor": (1, 1e300),
    "schedule.step_epochs": (1e-300, 1e6),
    "schedule.gamma": (1e-300,),
    "train.batch_size": (1, 23, 65_536),
    "train.accumulate": (5, 65_536),
    "train.loss": ("focal",),
    "train.focal_gamma": (0, 1e-300, 100),
    "train.label_smoothing": (0.9999999999,),
    "train.class_weights": ("balanced",),
    "train.sampler": ("balanced",),
    "train.ema": (1e-300, 0.9999999999),
    "train.monitor": ("none", "val_loss"),
    "train.patience": (1,),
    "train.save_every_min": (1e-300, 1e6),
    "train.max_minutes": (1e-300, 1e9),
    "evaluate.batch_size": (1, 1024),
    "evaluate.coverage": (1e-300, 0.9999999999),
    "ensemble.fold_seed": (2**63 - 1,),
    "seed": (2**63 - 1,),
}


@pytest.mark.slow
@amounts("training", few=8)
def test_trainings_of_extremes(count, demo_zoo, tiny_recipe, prepared):
    manifest = read_manifest(prepared / "manifest.csv")
    keys = sorted(EXTREMES)
    one = st.sampled_from(keys).flatmap(lambda key: st.tuples(st.just(key), st.sampled_from(EXTREMES[key])))
    whole = load("quickstart").recipe.model_dump(mode="json")
    assert {key.partition(".")[0] for key in keys} <= {*whole, *whole["phases"]["main"]}

    def use(chosen):
        recipe = tiny_recipe("train.epochs=1", *(f"{key}={value}" for key, value in chosen))
        training = classify.build(recipe, manifest, Compute(torch.device("cpu")), demo_zoo, {"task": "classify"})
        training.workers = 0
        run = directory.create("tiny", {"created": "now"}, out=None)
        try:
            loop.train(training, run, resume=False)
        finally:
            shutil.rmtree(run.path)

    ends = fuzz(count, st.lists(one, min_size=1, max_size=5), use)
    assert set(ends) <= {"used", "RecipeError", "RunError"}
    assert ends["used"] > count / 4


# --- manifests ---


@amounts("manifest")
def test_manifests(count, prepared):
    shutil.copytree(prepared, "own")
    lines = (prepared / "manifest.csv").read_text(encoding="utf-8").splitlines(keepends=True)
    few = "".join(lines[:4])

    def use(text):
        file = Path("own/manifest.csv")
        file.write_text(text, encoding="utf-8", errors="surrogatepass", newline="")
        found = read_manifest(file)
        assert all(found.path_of(row).resolve().is_relative_to(Path("own").resolve()) for row in found.rows)

    ends = fuzz(count, changed(few, ODD_TEXT), use)
    assert set(ends) == {"used", "DataError"}


# --- model files ---


@pytest.fixture
def parts(trained):
    """Header and data of a model file."""
    content = trained.model_file.read_bytes()
    (size,) = struct.unpack("<Q", content[:8])
    return json.loads(content[8 : 8 + size]), content[8 + size :]


def written(header, data):
    raw = json.dumps(header).encode("utf-8", "surrogatepass")
    Path("m.safetensors").write_bytes(struct.pack("<Q", len(raw)) + raw + data)


@amounts("header")
def test_headers_of_model_files(count, parts, prepared):
    whole, data = parts
    header = json.loads(whole["__metadata__"]["fx"])
    del header["content_sha256"]
    picture = next((prepared / "pictures" / "test").rglob("*.png"))

    def use(changed_header):
        written(whole | {"__metadata__": {"fx": json.dumps(changed_header)}}, data)
        list(open_model("m.safetensors").pipeline.run([picture]))

    ends = fuzz(count, with_odd_values(header), use)
    # The last one is of answers that a mean of 1e300 makes infinite.
    assert set(ends) <= {"used", "ModelFileError", "RunError"}


@amounts("bytes")
def test_bytes_of_model_files(count, parts, trained):
    content = trained.model_file.read_bytes()
    (size,) = struct.unpack("<Q", content[:8])
    # Changed weights are other weights; what is fuzzed is where they are said to lie.
    head, rest = content[: 8 + size], content[8 + size :]

    def use(changed_head):
        Path("m.safetensors").write_bytes(changed_head + rest)
        open_model("m.safetensors")

    ends = fuzz(count, changed(head, ODD_BYTES), use)
    assert set(ends) <= {"used", "ModelFileError"}


@amounts("state")
def test_places_of_resume_states(count, trained, tiny_recipe):
    recipe = tiny_recipe()
    place = checkpoint.load_state(trained.state_file)[1]["place"]

    def use(changed_place):
        session.take_over(state.Place(), {"place": changed_place}, recipe, Path("state.safetensors"))

    ends = fuzz(count, with_odd_values(place), use)
    assert ends.keys() <= {"used", ModelFileError.__name__}


# --- pictures ---


def pictures():
    rng = np.random.default_rng(0)
    grey = Image.fromarray(np.add.outer(np.arange(40) * 3, np.arange(48) * 2).astype(np.uint8))
    deep = Image.fromarray(rng.integers(0, 4096, (40, 48)).astype(np.uint16))
    colour = Image.merge("RGB", (grey, grey, grey.transpose(Image.Transpose.FLIP_TOP_BOTTOM)))
    text = PngImagePlugin.PngInfo()
    text.add_text(
        "fx", json.dumps({"clean": {"prepared_px": 64, "window": "percentile"}, "width_px": 9, "height_px": 9})
    )
    exif = Image.Exif()
    exif[0x0112] = 6
    for image, kind, options in (
        (grey, "PNG", {"pnginfo": text}),
        (deep, "PNG", {}),
        (colour.quantize(7), "PNG", {"transparency": 2}),
        (colour.convert("RGBA"), "PNG", {}),
        (grey, "JPEG", {"exif": exif}),
        (colour, "JPEG", {"progressive": True}),
        (colour.convert("CMYK"), "JPEG", {}),
        (deep, "TIFF", {"compression": "tiff_lzw"}),
        (grey.convert("F"), "TIFF", {}),
        (grey, "TIFF", {"save_all": True, "append_images": [grey]}),
        (grey.convert("1"), "TIFF", {"compression": "group4"}),
        (colour, "BMP", {}),
        (grey, "WEBP", {}),
        (colour, "WEBP", {"lossless": True}),
        (grey, "GIF", {"save_all": True, "append_images": [grey.rotate(90)]}),
        (grey, "MPO", {"save_all": True, "append_images": [grey]}),
    ):
        out = io.BytesIO()
        image.save(out, kind, **options)
        yield out.getvalue()


def look_at(content):
    path = Path("picture")
    path.write_bytes(content)
    # A warning is an error in tests alone, and would be taken for damage.
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always", RuntimeWarning)
        # As `read` has it: these are refused.
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            cleaned = Clean(64)(read(path), path)
        finally:
            assert not told, [str(each.message) for each in told]
    assert cleaned.pixels.shape == (64, 64)


@amounts("picture")
def test_pictures(count):
    ends = fuzz(count, one_of(list(pictures()), ODD_BYTES), look_at)
    assert set(ends) == {"used", "UnreadableImage"}


def dicom_files():
    import dicoms

    for bits, options in (
        (8, {}),
        (12, {"WindowCenter": 2000, "WindowWidth": 1500}),
        (16, {"RescaleSlope": 2, "RescaleIntercept": -100, "PhotometricInterpretation": "MONOCHROME1"}),
        (12, {"VOILUTSequence": [dicoms.lut(0, [0, 100, 4000])], "PixelPaddingValue": 0}),
    ):
        path = Path("seed.dcm")
        dicoms.save(
            path, dicoms.radiograph(bits, width=24, height=20), **({"bits": bits} if bits == 12 else {}), **options
        )
        yield path.read_bytes()


def coded_dicom_files():
    import dicoms
    from pydicom import dcmread, uid

    path = Path("seed.dcm")
    for syntax in ("ImplicitVRLittleEndian", "ExplicitVRBigEndian", "DeflatedExplicitVRLittleEndian"):
        yield dicoms.save(path, dicoms.radiograph(12, 40, 36), bits=12, syntax=getattr(uid, syntax)).read_bytes()
    yield dicoms.save(path, np.stack([dicoms.radiograph(12, 40, 36)] * 2), bits=12, NumberOfFrames=2).read_bytes()
    yield dicoms.as_jpeg(dicoms.save(path, dicoms.radiograph(8, 40, 36))).read_bytes()
    for syntax in ("RLELossless", "JPEGLSLossless", "JPEG2000Lossless"):
        made = dcmread(dicoms.save(path, dicoms.radiograph(16, 40, 36)))
        made.compress(getattr(uid, syntax))
        made.save_as(path, enforce_file_format=True)
        yield path.read_bytes()


@pytest.mark.parametrize("files", [dicom_files, coded_dicom_files])
@amounts("dicom")
def test_dicom_files(count, files):
    pytest.importorskip("pydicom")
    pytest.importorskip("fxcli.data.dicom")
    # The preamble is the same 128 bytes in all of them, and says nothing.
    seeds = [content[128:] for content in files()]
    for rest in seeds:
        look_at(bytes(128) + rest)
    ends = fuzz(count, one_of(seeds, ODD_BYTES), lambda rest: look_at(bytes(128) + rest))
    assert "UnreadableImage" in ends
    # Few changes leave such small pictures whole: of a small number of files, none may be used.
    assert set(ends) <= {"used", "UnreadableImage"}
    assert "used" in ends or count == FEW
