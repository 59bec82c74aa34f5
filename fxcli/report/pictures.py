"""The surest right and wrong answers of a run: of a classifier here, with heat maps; of a detector see located.

Torch is imported where a heat map is drawn.

They are answers to pictures that the network had not seen: out-of-fold ones, or those of the validation part. Pictures
of the test part are never shown: who chooses by them has no test part left.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fxcli.data import page
from fxcli.data.manifest import Manifest, Row, read_manifest
from fxcli.errors import DataError, FxError
from fxcli.evaluation.intervals import codes_of, one_of_each
from fxcli.evaluation.metrics import softmax
from fxcli.evaluation.predictions import Labelled, read_labelled
from fxcli.report.blocks import Block, Card, Missing, Pictures, Section, Text, View
from fxcli.report.kept import Kept
from fxcli.report.located import located

if TYPE_CHECKING:
    from fxcli.inference.opened import Opened
    from fxcli.inference.pipeline import Answer

_SIDE_PX = 224
_ABOUT = {
    "oof": "out-of-fold answers, drawn by the networks that had not seen the picture",
    "val": "answers to the validation part",
}


@dataclass(frozen=True)
class Chosen:
    """An answer that is shown.

    Attributes:
        row: The picture.
        label: Its true class, by index.
        answer: Likewise.
        p: Probabilities of all classes, [K], at the model's temperature.
    """

    row: Row
    label: int
    answer: int
    p: np.ndarray


def pictures(run: Kept, most: int) -> Section:
    """So many right and so many wrong answers, the surest first."""
    title = "Best and worst pictures"
    part, file = ("oof", run.run.oof_file) if run.is_in_folds else ("val", run.run.path / "predictions" / "val.csv")
    if not file.is_file():
        return Section(title, [Missing("No answers to pictures that it had not seen are kept.", _again(run, part))])
    try:
        text = file.read_bytes().decode("utf-8")
        # The run's copy of the manifest; the pictures are still beside the original.
        manifest = read_manifest(run.run.path / "manifest.csv", root=run.run.manifest_file.parent)
        show = located if run.task == "detect" else partial(_answered, part=part)
        about, parts = show(run, manifest, text, most)
    except (OSError, ValueError, FxError) as error:  # files of a run may hold anything
        what = error.what if isinstance(error, FxError) else str(error)
        return Section(title, [Missing(f"No picture can be shown: {what[:300]}.")])
    return Section(title, about, parts)


def _again(run: Kept, part: str) -> str:
    """The command that makes such answers; "" where none does. Those of a checkpoint are not kept as the run's."""
    if part == "val" and run.digest:
        has_part = any(row.split == part for row in run.rows)
        return f"fx evaluate {run.quoted} --split {part}" if has_part else ""
    return "" if run.status == "finished" else f"fx train --resume {run.quoted}"


def _answered(run: Kept, manifest: Manifest, text: str, most: int, *, part: str) -> tuple[list[Block], list[Section]]:
    from fxcli.inference.opened import open_model

    said, classes = read_labelled(text)
    by_path = {row.path: row for row in manifest.rows}
    if strange := set(said.paths) - by_path.keys():
        raise DataError(f"{len(strange)} pictures that were answered are not in the run's manifest")
    opened = open_model(str(run.run.model_file), workers=0)
    if classes != opened.model.classes:
        raise DataError("its answers are of other classes than the model has")
    # As in fx predict; the file has what the networks gave.
    said = replace(said, logits=said.logits / opened.uncertainty.temperature)
    right, wrong = ([_chosen(said, by_path, place) for place in places] for places in _surest(said, most))
    drawn = _drawn(opened, manifest, [*right, *wrong])
    cards = [_card(classes, chosen, views) for chosen, views in zip([*right, *wrong], drawn, strict=True)]
    about = Text(
        f"The surest {_ABOUT[part]}; one of each group. Probabilities are at the model's temperature, as in fx "
        "predict. Colour is evidence in logits: a map without evidence stays grey. It shows what spoke for an answer, "
        "not where a fracture is."
    )
    parts = [("Right answers", cards[: len(right)]), ("Wrong answers", cards[len(right) :])]
    return [about], [Section(name, [Pictures(some) if some else Text("None.")]) for name, some in parts]


def _surest(said: Labelled, most: int) -> tuple[list[int], list[int]]:
    """Places of right and of wrong answers, the surest first, one of each group."""
    p = softmax(said.mean_logits)
    codes, _ = codes_of(said.groups, len(said.paths))
    is_right = p.argmax(axis=1) == said.targets
    order = np.argsort(-p.max(axis=1), kind="stable")
    found = []
    for wanted in (True, False):
        own = order[is_right[order] == wanted]
        found.append(one_of_each(own, codes)[:most].tolist())
    return found[0], found[1]


def _chosen(said: Labelled, by_path: dict[str, Row], place: int) -> Chosen:
    p = softmax(said.mean_logits[place : place + 1])[0]
    return Chosen(by_path[said.paths[place]], int(said.targets[place]), int(p.argmax()), p)


def _card(classes: Sequence[str], chosen: Chosen, views: Sequence[View]) -> Card:
    answer = f"{classes[chosen.answer]} {chosen.p[chosen.answer]:.2f}"
    label = "" if chosen.answer == chosen.label else f", is {classes[chosen.label]} {chosen.p[chosen.label]:.2f}"
    return Card(views, [f"{answer}{label}", chosen.row.source or chosen.row.path])


def _drawn(opened: Opened, manifest: Manifest, chosen: Sequence[Chosen]) -> list[list[View]]:
    """The picture and its heat maps: for the answer, and for the true class where that is another."""
    from fxcli.inference.engines import TorchEngine
    from fxcli.inference.measured import members_of

    engine = opened.pipeline.engine
    by_members: dict[tuple[int, ...], list[int]] = {}
    for place, numbers in enumerate(members_of(opened, [each.row for each in chosen])):
        by_members.setdefault(tuple(numbers), []).append(place)
    views: dict[int, list[View]] = {}
    for own, places in by_members.items():
        if isinstance(engine, TorchEngine):
            some = replace(engine, members=tuple(engine.members[number] for number in own))
            opened = replace(opened, pipeline=replace(opened.pipeline, engine=some))
        paths = [manifest.path_of(chosen[place].row) for place in places]
        for place, found in zip(places, _views(opened, paths, [chosen[place] for place in places]), strict=True):
            views[place] = found
    return [views[place] for place in range(len(chosen))]


def _views(opened: Opened, paths: Sequence[Path], chosen: Sequence[Chosen]) -> Iterator[list[View]]:
    from fxcli.explain import outline
    from fxcli.explain.draw import draw_answer

    classes = opened.model.classes

    def draw(answer: Answer) -> list[View]:
        if answer.cleaned is None:
            return []  # a card without pictures: the others are shown
        found = [_view(outline.radiograph(answer.cleaned), "the picture")]
        its = chosen[answer.index]
        for target in dict.fromkeys([its.answer, its.label]):
            made = draw_answer(opened, answer, target=target)
            found.append(_view(made.coloured, f"heat map for {classes[target]}"))
        return found

    yield from opened.pipeline.map(draw, paths)


def _view(pixels: np.ndarray, what: str) -> View:
    return View(page.jpeg(page.small(pixels, _SIDE_PX)), what)
