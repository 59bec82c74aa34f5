"""fx predict --on ray: the rows of the local command, from two machines, one of which is lost.

Machines are groups of processes here. The command runs in a process of its own, as a user starts it.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from bench import material

from fxcli.testing import tiny_dataset

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")
pytest.importorskip("ray", reason="the extra `ray` is not installed")
pytestmark = [pytest.mark.slow]

ROOT = Path(__file__).resolve().parent.parent
SMALL_SHARDS = "from fxcli.inference import shards; shards.SIZE = 8; from fxcli.cli import main; main()"
# Its functions go to the actors, which are other processes.
ENDING = """
import os
from fxcli.inference import shards, verdict

shards.SIZE = 8
here, open_judge = os.getpid(), verdict.open_judge

def open_ending(*given, **more):
    judge = open_judge(*given, **more)
    tell = judge.verdict

    def ending(answer):
        if answer.path.name == "broken.png" and os.getpid() != here:
            os._exit(1)
        return tell(answer)

    judge.verdict = ending
    return judge

verdict.open_judge = open_ending
from fxcli.cli import main
main()
"""
TABLE = Path("out/predictions.parquet")
PART = Path("out/predictions.parquet.part")


def environment(**more):
    found = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "plugins")]), "OMP_NUM_THREADS": "1"}
    found.pop("RAY_ADDRESS", None)
    return {**found, "FX_CACHE_DIR": str(Path("cache").absolute()), **more}


def begun(*arguments, address=None, script=SMALL_SHARDS):
    """fx predict in shards of few pictures, as a process."""
    command = [sys.executable, "-c", script, "predict", *map(str, arguments), "--model", "model.safetensors"]
    where = {"RAY_ADDRESS": address} if address else {}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "encoding": "utf-8"}
    return subprocess.Popen(command, env=environment(**where), **pipes)


def predict(*arguments, address=None, code=0, script=SMALL_SHARDS):
    process = begun(*arguments, address=address, script=script)
    stdout, stderr = process.communicate(timeout=600)
    assert process.returncode == code, stderr
    assert stdout == ""
    return stderr


def local_rows(*arguments, code=0):
    predict(*arguments, "--out", "local", "--parquet", code=code)
    return pq.read_table("local/predictions.parquet")


def assert_same(found, expected):
    """The same rows in the same order; the company of others in a batch may move a probability by rounding."""
    assert found.schema.remove_metadata() == expected.schema.remove_metadata()
    exact = [name for name in expected.schema.names if not name.startswith("p_")]
    assert found.select(exact).to_pylist() == expected.select(exact).to_pylist()
    for name in set(expected.schema.names) - set(exact):
        for value, other in zip(found.column(name).to_pylist(), expected.column(name).to_pylist(), strict=True):
            assert (value is None) == (other is None)
            assert value is None or value == pytest.approx(other, abs=1e-5)


@pytest.fixture
def raw():
    """60 pictures and a broken one, and a model, with none of which anything is computed in this process."""
    material.model_file(Path("model.safetensors"), "efficientnet_lite0", size_px=64, prepared_px=96)
    folder = tiny_dataset(Path("raw"), per_class=20)
    (folder / "class_1" / "broken.png").write_bytes(b"nothing")
    return folder


@pytest.fixture
def cluster():
    """Two machines with one core each; it yields the cluster and the one without its head."""
    from ray.cluster_utils import Cluster

    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    made = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False, "env_vars": environment()}
    )
    try:
        yield made, made.add_node(num_cpus=1, env_vars=environment())
    finally:
        made.shutdown()


def actors_on(node):
    """Processes of Ray actors that a machine runs."""
    raylet = node.all_processes["raylet"][0].process.pid
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(status.read_text().rpartition(")")[2].split()[1])
            if parent == raylet and b"MapWorker" in (status.parent / "cmdline").read_bytes():
                found.append(int(status.parent.name))
        except (OSError, ValueError):
            continue
    return found


def shards():
    return sorted(PART.glob("*.parquet"))


def wait_for(what, process, seconds=300):
    end = time.monotonic() + seconds
    while not what():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < end, "it takes too long"
        time.sleep(0.05)


def test_a_machine_that_is_lost_loses_no_row(raw, cluster):
    for number in range(12):
        shutil.copytree(raw, Path("many") / f"{number:02d}")
    expected = local_rows("many", code=9)
    made, second = cluster
    process = begun("many", "--out", "out", "--on", "ray", address=made.address)
    wait_for(lambda: actors_on(second) and len(shards()) >= 6, process)
    before = {file.name: file.stat().st_mtime_ns for file in shards()}
    made.remove_node(second, allow_graceful=False)
    stdout, stderr = process.communicate(timeout=900)
    assert process.returncode == 9, stderr
    assert stdout == ""
    assert "2 machines" in stderr
    assert len(before) < 60 < len(list(TABLE.iterdir()))
    assert_same(pq.read_table(TABLE), expected)
    # What was done stayed as it was.
    after = {f"{file.stem.rpartition('-')[2]}.parquet": file.stat().st_mtime_ns for file in TABLE.iterdir()}
    assert {name: after[name] for name in before} == before


def test_stopped_and_gone_on_with(raw):
    expected = local_rows("raw", code=9)
    process = begun("raw", "--out", "out", "--on", "ray")
    wait_for(lambda: len(shards()) >= 2, process)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=120)
    assert process.returncode == 130, stderr
    assert "--resume goes on with them" in stderr
    done = {file.name: file.stat().st_mtime_ns for file in shards()}
    assert done
    assert not TABLE.exists()
    assert "a prediction that was stopped left shards here" in predict("raw", "--out", "out", "--on", "ray", code=4)
    told = predict("raw", "--out", "out", "--on", "ray", "--resume", code=9)
    assert "going on: " in told
    assert_same(pq.read_table(TABLE), expected)
    # Now it can be read, one more came, and one is gone, with which a shard may have ended.
    shutil.copy(raw / "class_1" / "0.png", raw / "class_1" / "broken.png")
    shutil.copy(raw / "class_1" / "0.png", raw / "class_0" / "new.png")
    (raw / "class_2" / "3.png").unlink()
    before = {file.stem.rpartition("-")[2]: file.stat().st_mtime_ns for file in TABLE.iterdir()}
    predict("raw", "--out", "out", "--on", "ray", "--resume")
    shutil.rmtree("local")
    assert_same(pq.read_table(TABLE), local_rows("raw"))
    after = {file.stem.rpartition("-")[2]: file.stat().st_mtime_ns for file in TABLE.iterdir()}
    assert len(set(before.items()) & set(after.items())) >= len(before) - 4
    assert "draft was true, and is false" in predict(
        "raw", "--out", "out", "--on", "ray", "--resume", "--no-draft", code=6
    )


def test_a_picture_that_ends_its_process_does_not_end_them_for_ever(raw):
    told = predict("raw", "--out", "out", "--on", "ray", code=6, script=ENDING)
    assert "3 processes ended at the " in told
    assert "--resume goes on" in told
    predict("raw", "--out", "out", "--on", "ray", "--resume", code=9)
    assert pq.read_table(TABLE).num_rows == 61


def test_a_cluster_that_is_not_there_is_told_at_once(raw):
    begin = time.monotonic()
    told = predict("raw", "--out", "out", "--on", "ray", address="127.0.0.1:1", code=6)
    assert "no Ray cluster can be used at 127.0.0.1:1" in told
    assert time.monotonic() - begin < 60
    assert list(Path("out").iterdir()) == []


def test_what_a_machine_cannot_do_is_told(raw, cluster):
    told = predict("raw", "--out", "out", "--on", "ray", "--workers", "2", address=cluster[0].address, code=2)
    assert "no machine of the cluster has 2 cores" in told
