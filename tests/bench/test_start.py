"""How soon a command answers, and how much memory it keeps: fx as a program."""

import os
import subprocess
import sys
import time
from statistics import median

import pytest

from bench import material, paired
from bench.paired import Interval
from bench.report import Aim, Row
from bench.side import environment

pytestmark = pytest.mark.bench

IMPORTS = "import typer, pydantic, yaml, pluggy"
FORWARD = (
    "import torch, torchvision; network = torchvision.models.resnet50(num_classes=7).eval(); "
    "torch.set_grad_enabled(False); print(network(torch.zeros(1, 3, 224, 224)))"
)
FILES = (1_000, 20_000)


def fx(*arguments):
    return [sys.executable, "-m", "fxcli", *map(str, arguments)]


def seconds(command):
    """What a round does: a fresh process from start to end."""
    env = environment()

    def one_round():
        started = time.perf_counter()
        subprocess.run(command, env=env, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        return time.perf_counter() - started

    one_round()
    return one_round


def test_start(part, repeats, folders, workshop, tmp_path):
    made = part("start", "fresh processes from start to end, after one that warmed the disk cache")
    model = material.model_file(workshop / "resnet50.safetensors", "resnet50")
    picture = sorted(os.scandir(folders.few.path), key=lambda entry: entry.name)[0].path
    pairs = [
        ("start, fx --help", fx("--help"), "bare imports", IMPORTS, Aim(1.3, at_most=True)),
        (
            "start, fx predict of one picture",
            fx("predict", picture, "--model", model, "--out", tmp_path / "out", "--overwrite"),
            "import torch, torchvision; one forward pass",
            FORWARD,
            Aim(1.2, at_most=True),
        ),
    ]
    for what, command, peer, code, aim in pairs:
        times = paired.rounds({"fx": seconds(command), peer: seconds([sys.executable, "-c", code])}, repeats)
        made.raw |= {f"{what}: {name}, s": values for name, values in times.items()}
        ratio = paired.ratio(times["fx"], times[peer])
        made.rows.append(Row(what, "fx", peer, median(times["fx"]), median(times[peer]), "s", ratio, aim))


@pytest.mark.skipif(not hasattr(os, "wait4"), reason="this system does not say what a process took")
def test_memory(part, folders, workshop, tmp_path):
    made = part("memory", "peak resident memory of fx predict, ResNet-18 at 32 px, over a list of paths on stdin")
    model = material.model_file(workshop / "resnet18.safetensors", "resnet18", size_px=32)
    # The smallest of the real files, again and again: only their number matters here.
    smallest = sorted(os.scandir(folders.once.path), key=lambda entry: entry.stat().st_size)[:10]
    peaks = [peak_mib(model, [entry.path for entry in smallest], count, tmp_path) for count in FILES]
    factor = peaks[1] / peaks[0]
    made.raw |= {f"{count} files, MiB": [peak] for count, peak in zip(FILES, peaks, strict=True)}
    names = [f"fx predict, {count} files" for count in FILES]
    ratio, aim, note = Interval(factor, factor, factor, 1.0), Aim(1.1, at_most=True), "one run each"
    made.rows.append(Row("memory", names[1], names[0], peaks[1], peaks[0], "MiB", ratio, aim, note))


def peak_mib(model, files, count, tmp_path):
    listed = tmp_path / f"{count}.txt"
    listed.write_text("".join(f"{files[index % len(files)]}\n" for index in range(count)), encoding="utf-8")
    command = fx("predict", "-", "--model", model, "--out", tmp_path / f"out {count}", "--quiet")
    with listed.open(encoding="utf-8") as handle:
        process = subprocess.Popen(command, stdin=handle, env=environment())
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    # In bytes on macOS, in KiB elsewhere.
    return usage.ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
