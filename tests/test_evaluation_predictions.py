import numpy as np
import pytest

from fxcli.console import INTENDED_USE
from fxcli.evaluation.predictions import PredictionTable, notice

LOGITS = np.array([0.1, 2.3, -1.7], dtype=np.float32)


@pytest.mark.parametrize("labelled", [False, True])
@pytest.mark.parametrize("logits", [LOGITS, None])
def test_cells_fit_the_columns(labelled, logits):
    table = PredictionTable(("a", "b", "c"), demo=False, labelled=labelled)
    row = dict(zip(table.columns, table.cells("x.png", logits=logits, reason="no", label="c"), strict=True))
    assert row["path"] == "x.png"
    assert row["notice"] == INTENDED_USE
    if logits is None:
        assert (row["status"], row["reason"], row["class"], row["p_a"]) == ("error", "no", "", "")
    else:
        assert (row["status"], row["reason"], row["class"]) == ("ok", "", "b")
        assert sum(float(row[f"p_{name}"]) for name in "abc") == pytest.approx(1, abs=2e-6)
    if labelled:
        assert row["label"] == "c"


def test_logits_read_back_as_the_same_bits():
    table = PredictionTable(("a", "b", "c"), demo=False, labelled=True)
    row = dict(zip(table.columns, table.cells("x", logits=LOGITS, label="a"), strict=True))
    assert np.array_equal(np.array([row[f"logit_{name}"] for name in "abc"], dtype=np.float32), LOGITS)


def test_records():
    table = PredictionTable(("a", "b", "c"), demo=True)
    record = table.record("x.png", logits=LOGITS)
    assert record["class"] == "b"
    assert record["probabilities"]["b"] == pytest.approx(0.886, abs=1e-3)
    assert record["notice"].startswith("DEMO")
    assert table.record("y", reason="gone") == {
        "path": "y",
        "status": "error",
        "reason": "gone",
        "notice": notice(demo=True),
    }
