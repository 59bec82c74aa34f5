"""`fx train`: full fine-tuning, and thirty epochs of a frozen backbone."""

from statistics import median

import pytest

from bench import material, paired
from bench.compare import Wanted, add_rows
from bench.report import Aim, Row
from bench.side import opened

pytestmark = pytest.mark.bench

FX, PLAIN = "fx train", "plain fp32 loop"
IMAGES = 64
EPOCHS = 30
# Part of an epoch that the plain loop is timed on; its first batch, which nothing overlaps, must not weigh much.
FRACTION = 1 / 6


def sets(manifest, epochs):
    return [f"data.manifest='{manifest}'", "model.init=random", f"train.epochs={epochs}"]


def test_finetune(part, repeats, manifest, tmp_path):
    made = part(
        "finetune",
        f"recipe finetune with random weights, over {IMAGES} training pictures; seconds of the second epoch of a run, "
        "without validation, against an epoch of the warm plain loop (AdamW, batch 32, two loading processes)",
    )
    short = material.part_of(manifest, "finetune", train=IMAGES, val=8)
    wanted = {
        FX: ("fx:train", {"recipe": "finetune", "sets": sets(short, 2), "images": IMAGES}),
        PLAIN: ("peers_train:plain_epoch", {"manifest": str(short), "frozen": False}),
    }
    with opened(wanted) as (sides, missing):
        sides[PLAIN].run()
        runs = {
            FX: fx_runs(sides[FX], tmp_path, "epoch_seconds", scale=1 / IMAGES),
            PLAIN: lambda: sides[PLAIN].run()["seconds"] / IMAGES,
        }
        times = paired.rounds(runs, repeats)
    add_rows(made, "train, ResNet-50, all layers", times, [Wanted(FX, (PLAIN,), Aim(3.0))], missing)


def test_frozen(part, repeats, manifest, tmp_path):
    numbers = material.counts(manifest)
    shares = {split: max(1, round(count * FRACTION)) for split, count in numbers.items()}
    scale = EPOCHS * sum(numbers.values()) / sum(shares.values())
    made = part(
        "frozen",
        f"the whole command `fx train baseline` with random weights, {EPOCHS} epochs of {numbers['train']} training "
        f"and {numbers['val']} validation pictures, nothing cached, against the plain loop with a frozen backbone: "
        f"an epoch of {shares['train']} and {shares['val']} of them, times {scale:.0f}",
    )
    short = material.part_of(manifest, "frozen", train=shares["train"], val=shares["val"])
    tiny = material.part_of(manifest, "probe", train=32, val=8)
    what, aim = f"train, ResNet-50, frozen, {EPOCHS} epochs", Aim(30.0)
    settings = {"recipe": "baseline", "images": numbers["train"]}
    wanted = {
        "probe 2": ("fx:train", settings | {"sets": sets(tiny, 2)}),
        "probe 10": ("fx:train", settings | {"sets": sets(tiny, 10)}),
        FX: ("fx:train", settings | {"sets": sets(manifest, EPOCHS)}),
        PLAIN: ("peers_train:plain_epoch", {"manifest": str(short), "frozen": True}),
    }
    with opened(wanted) as (sides, _):
        sides[PLAIN].run()
        if not keeps_features(sides, tmp_path):
            note = "not measured: this fx runs the frozen backbone anew in every epoch, which would take an hour"
            made.rows.append(Row(what, FX, PLAIN, unit="s", aim=aim, note=note))
            return
        runs = {
            FX: fx_runs(sides[FX], tmp_path, "seconds"),
            PLAIN: lambda: sides[PLAIN].run()["seconds"] * scale,
        }
        times = paired.rounds(runs, repeats)
    ratio = paired.ratio(times[PLAIN], times[FX])
    made.raw |= {f"{name}, s": values for name, values in times.items()}
    note = "the plain loop is extrapolated"
    made.rows.append(Row(what, FX, PLAIN, median(times[FX]), median(times[PLAIN]), "s", ratio, aim, note))


def keeps_features(sides, tmp_path):
    """Whether ten epochs take much less than five times as long as two."""
    two, ten = (fx_runs(sides[f"probe {epochs}"], tmp_path / f"probe {epochs}", "seconds")() for epochs in (2, 10))
    return ten < 2 * two


def fx_runs(side, folder, figure, *, scale=1.0):
    """What a round does with fx: a run of its own, with a seed of its own."""
    numbers = iter(range(1, 1000))

    def one_round():
        number = next(numbers)
        return side.run(out=str(folder / f"run {number}"), seed=number)[figure] * scale

    return one_round
