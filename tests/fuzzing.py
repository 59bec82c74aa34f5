"""Values that are changed at random, and what uses them watched; for test_fuzz*."""

import contextlib
import io
import math
import signal
from datetime import timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fxcli.errors import FxError

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
