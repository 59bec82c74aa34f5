"""Drawings as SVG that stands within a page: text stays text, and colours are those of the page, light or dark.

The same numbers give the same bytes: no date, no random id.
"""

from __future__ import annotations

import contextlib
import io
import re
import warnings
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from fxcli.data.names import without_middle
from fxcli.errors import MissingDependency

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Colours that matplotlib draws in, and what the page calls them (see report.html.j2).
_TEXT, _GRID = "#000010", "#000011"
_SERIES = tuple(f"#00000{number}" for number in range(1, 7))
_NAMES = {_TEXT: "currentColor", _GRID: "var(--line)", **{each: f"var(--c{each[-1]})" for each in _SERIES}}
# Lines differ by these, too: not everybody tells colours apart, and paper may have none.
_DASHES = ("-", "--", ":", "-.")
_MARKS = ("o", "s", "^", "D", "v", "P")
# Two stand beside each other on a wide screen, and one on that of a phone.
_SIZE_IN = (4.4, 2.9)
_PX_PER_POINT = 1.33
_LONGEST = 40
_SETTINGS: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "fx",
    # A name is no formula.
    "text.parse_math": False,
    "font.size": 10,
    "text.color": _TEXT,
    "axes.edgecolor": _TEXT,
    "axes.labelcolor": _TEXT,
    "xtick.color": _TEXT,
    "ytick.color": _TEXT,
    "grid.color": _GRID,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
}


@dataclass(frozen=True)
class Line:
    """A line of a drawing."""

    name: str
    x: Sequence[float]
    y: Sequence[float]


@dataclass(frozen=True)
class Range:
    """A figure with its interval: low and high are None where there is none."""

    value: float
    low: float | None = None
    high: float | None = None


def require() -> None:
    """Whether figures can be drawn.

    Raises:
        MissingDependency: matplotlib is not installed.
    """
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise MissingDependency("matplotlib", extra="report", purpose="a report's figures") from error


def curves(
    lines: Sequence[Line],
    *,
    alt: str,
    x: str,
    y: str,
    is_share: bool = False,
    breaks: Mapping[float, str] | None = None,
) -> Markup:
    """Lines over a common axis.

    Args:
        lines: Each with a point at least.
        alt: What the drawing shows, for who cannot see it.
        x: Of the axis below.
        y: Of the axis beside it.
        is_share: Whether values lie in 0…1, all of which is shown.
        breaks: Places on the axis below that are marked, with names.
    """
    from matplotlib.ticker import MaxNLocator

    with _drawing(alt) as (figure, axes, made):
        for number, line in enumerate(lines):
            colour, dash = _SERIES[number % len(_SERIES)], _DASHES[number % len(_DASHES)]
            # A single point makes no line.
            mark = "o" if len(line.x) == 1 else ""
            axes.plot(line.x, line.y, dash, color=colour, marker=mark, label=_plain(line.name), linewidth=1.6)
        for place, name in (breaks or {}).items():
            axes.axvline(place, color=_TEXT, linewidth=0.8, linestyle=":")
            axes.annotate(
                _plain(name),
                (place, 1),
                xycoords=("data", "axes fraction"),
                xytext=(3, -2),
                textcoords="offset points",
                va="top",
                fontsize=9,
            )
        if is_share:
            axes.set_ylim(0, 1.02)
        if x == "epoch":
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        _finish(figure, axes, x, y, len(lines))
    return made[0]


def intervals(names: Sequence[str], series: Mapping[str, Sequence[Range | None]], *, alt: str) -> Markup:
    """Figures in 0…1 with their intervals, one below the other.

    Args:
        names: Of the figures.
        series: Of each model or part: one for each name.
        alt: See `curves`.
    """
    height = 0.9 + 0.3 * len(names) * max(1, 0.55 * len(series))
    with _drawing(alt, (_SIZE_IN[0], height)) as (figure, axes, made):
        for number, (label, values) in enumerate(series.items()):
            # A mark of its own for each round of colours: no two of 36 are alike.
            colour, mark = _SERIES[number % len(_SERIES)], _MARKS[(number + number // len(_SERIES)) % len(_MARKS)]
            offset = 0.7 * (number + 0.5) / len(series) - 0.35
            known = [(place + offset, each) for place, each in enumerate(values) if each is not None]
            for place, each in known:
                if each.low is not None and each.high is not None:
                    axes.plot([each.low, each.high], [place, place], color=colour, linewidth=2)
            axes.plot(
                [each.value for _, each in known],
                [place for place, _ in known],
                mark,
                color=colour,
                label=_plain(label),
            )
        axes.set_yticks(range(len(names)), names)
        axes.set_ylim(len(names) - 0.5, -0.5)
        axes.set_xlim(0, 1.02)
        _finish(figure, axes, "", "", len(series))
    return made[0]


def reliability(confidence: Sequence[float], accuracy: Sequence[Range], *, alt: str) -> Markup:
    """How often answers are right, over the probability that they were given."""
    with _drawing(alt, (3.6, 3.4)) as (figure, axes, made):
        axes.plot([0, 1], [0, 1], ":", color=_TEXT, linewidth=1, label="perfectly calibrated")
        for at, each in zip(confidence, accuracy, strict=True):
            if each.low is not None and each.high is not None:
                axes.plot([at, at], [each.low, each.high], color=_SERIES[0], linewidth=1.6)
        axes.plot(confidence, [each.value for each in accuracy], "o-", color=_SERIES[0], label="this model")
        axes.set_xlim(0, 1.02)
        axes.set_ylim(0, 1.02)
        _finish(figure, axes, "probability of the answer", "share that is right", 2)
    return made[0]


@contextlib.contextmanager
def _drawing(alt: str, size_in: tuple[float, float] = _SIZE_IN) -> Iterator[tuple[Figure, Axes, list[Markup]]]:
    """Gives a figure, its axes, and a list that its SVG is put into at the end."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_SETTINGS), warnings.catch_warnings():
        # The page has other fonts than the one that text is measured with.
        warnings.filterwarnings("ignore", "Glyph .* missing")
        # Not through pyplot, which keeps figures and looks for a screen.
        figure = Figure(figsize=size_in, layout="constrained")
        made: list[Markup] = []
        yield figure, figure.add_subplot(), made
        out = io.StringIO()
        figure.savefig(out, format="svg", metadata={"Date": None})
        made.append(_within_page(out.getvalue(), alt))


def _finish(figure: Figure, axes: Axes, x: str, y: str, count: int) -> None:
    axes.set_xlabel(_printable(x))
    axes.set_ylabel(_printable(y))
    if count > 1:
        figure.legend(loc="outside lower center", ncols=2 if count < 5 else 3, fontsize=9)


def _printable(text: str) -> str:
    """Short, and without what XML cannot hold."""
    return without_middle("".join(sign if sign.isprintable() else "\ufffd" for sign in text), _LONGEST)


def _plain(name: str) -> str:
    """A name as a label: matplotlib would leave out one with a _ first."""
    return f"\u200b{_printable(name)}"


def _within_page(text: str, alt: str) -> Markup:
    """The drawing as an element of a page: without a head, namespaces, fonts, a size and ids, which may meet."""
    root = ElementTree.fromstring(text)
    named = {f"#{element.attrib['id']}": element for element in root.iter() if "id" in element.attrib}
    for parent in list(root.iter()):
        for child in list(parent):
            if _bare(child.tag) in ("metadata", "defs", "style"):
                parent.remove(child)
    for element in root.iter():
        element.tag = _bare(element.tag)
        found = {_bare(key): value for key, value in element.attrib.items()}
        if element.tag == "use":
            element.tag = "path"
            found = _in_place(found, named[found["href"]].attrib)
        # All that is drawn lies within the axes: nothing needs a clip path.
        element.attrib = {key: _themed(value) for key, value in found.items() if key not in ("id", "clip-path")}
    width = float(root.attrib["viewBox"].split()[2])
    style = f"max-width: {_PX_PER_POINT * width:.0f}px"
    root.attrib = {"viewBox": root.attrib["viewBox"], "style": style, "role": "img", "aria-label": alt}
    return Markup(ElementTree.tostring(root, encoding="unicode"))


def _in_place(use: Mapping[str, str], path: Mapping[str, str]) -> dict[str, str]:
    """A path that stands where another was referred to: its own style beats that of its use."""
    styles = "; ".join(each["style"] for each in (use, path) if "style" in each)
    return {"d": path["d"], "transform": f"translate({use.get('x', 0)} {use.get('y', 0)})", "style": styles}


def _themed(value: str) -> str:
    """A style with the page's colours and font."""
    value = re.sub(r"font-family:[^;]*;?", "", value)
    return re.sub(r"#0000[01]\d", lambda colour: _NAMES[colour[0]], value)


def _bare(name: Any) -> str:
    return str(name).rpartition("}")[2]
