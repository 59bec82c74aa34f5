"""Fixtures of the benchmark: how much to measure, what on, and the report at its end."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path

import pytest

from bench import machine, material, report

RESULTS = Path(__file__).resolve().parents[2] / "recipes" / "results" / "bench.json"


@pytest.fixture(scope="session")
def repeats():
    """Rounds; fewer than seven are for trying out."""
    return int(os.environ.get("FX_BENCH_REPEATS", "7"))


@pytest.fixture(scope="session")
def workshop(tmp_path_factory):
    """A folder that the whole run shares."""
    return tmp_path_factory.mktemp("bench")


@pytest.fixture
def folders(real_data, tmp_path):
    """Real pictures: FX_BENCH_FILES of them, 96 if that is not set."""
    return material.folders(real_data, tmp_path / "pictures", int(os.environ.get("FX_BENCH_FILES", "96")))


@pytest.fixture
def manifest(real_data, workshop):
    """Of the prepared Bone Break pictures."""
    return material.prepared(real_data, workshop / "bone_break")


@pytest.fixture(scope="session")
def parts(request):
    """Collects the parts; shows and stores them at the end, also when one of them failed."""
    found = []
    described, load = machine.describe(), machine.load()
    started = datetime.now(UTC).isoformat(timespec="seconds")
    quiet = "" if machine.is_quiet(load) else f"\nWARNING: load average {load}: this machine is busy; do not trust this"
    capture = request.config.pluginmanager.getplugin("capturemanager")

    def say(text):
        with capture.global_and_fixture_disabled():
            print(f"\n{text}", flush=True)

    say(f"bench: {described['cpu']}, {described['cores']} cores, load average {load}{quiet}")
    yield found, started, load
    if found:
        written = report.store(RESULTS, described, found)
        kept = f"written to {RESULTS}" if written else f"not kept: fewer than {report.ENOUGH} repeats"
        say(f"{report.table(found)}\n{kept}{quiet}")


@pytest.fixture
def part(parts, repeats):
    """Makes a part: part("predict", "what is timed")."""
    found, started, load = parts

    def make(name, method):
        made = report.Part(name, method, started, load, repeats)
        found.append(made)
        return made

    return make
