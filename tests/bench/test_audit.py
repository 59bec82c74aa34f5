"""How the audit's cost grows with the number of pictures: time and memory at 1k, 10k and 100k."""

import itertools
import json
import os
import subprocess
import sys

import pytest

from bench.paired import Interval
from bench.report import Aim, Row
from bench.side import environment

pytestmark = pytest.mark.bench

COUNTS = [int(count) for count in os.environ.get("FX_BENCH_AUDIT", "1000,10000,100000").split(",")]
METHOD = (
    "one run each, processor time of one thread; 1,000 are drawn phantoms of which every tenth has a distorted copy, "
    "more are random keypoints, hashes and pixels (40 keypoints a picture). Indexing is measured whole, comparing on "
    "1,000 candidates; where pictures look like nothing that ends early, so each costs what it does among drawn ones"
)


@pytest.mark.skipif(not hasattr(os, "wait4"), reason="this system does not say what a process took")
def test_audit(part):
    made = part("audit", METHOD)
    results = [run(count) for count in COUNTS]
    compare_s = max(result["compare_s"] for result in results)
    costs = [per_picture_ms(result, compare_s) for result in results]
    for count, result, ms in zip(COUNTS, results, costs, strict=True):
        made.raw |= {f"{count} pictures: {name}": [value] for name, value in result.items()}
        note = ", ".join(f"{name} {value:.3g}" for name, value in result.items())
        made.rows.append(Row("audit", f"{count} pictures", value=ms, unit="ms", note=note))
        assert result.get("recall", 1) > 0.9
    for (few, few_ms), (many, many_ms) in itertools.pairwise(zip(COUNTS, costs, strict=True)):
        factor = many_ms / few_ms
        ratio, aim = Interval(factor, factor, factor, 1.0), Aim(2, at_most=True)
        sides = f"{many} pictures, each", f"{few} pictures, each"
        made.rows.append(Row("audit", *sides, many_ms, few_ms, "ms", ratio, aim, "one run"))


def per_picture_ms(result, compare_s):
    """Of candidates and comparing; a view takes the same for each picture."""
    spent = result["hashes_s"] + result["words_s"] + result["candidates"] * compare_s
    return 1e3 * spent / result["count"]


def run(count):
    command = [sys.executable, "-m", "bench.audit_side", str(count)]
    env = environment() | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True) as process:
        text = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    # In bytes on macOS, in KiB elsewhere.
    return {**json.loads(text), "memory_mib": usage.ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)}
