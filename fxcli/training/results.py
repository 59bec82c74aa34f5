"""The results of a study, small enough to be committed: written by study, read by `fx train` for the table.

    index.json                     one line a training: hashes, versions, validation figures
    named.json                     the comparison that came first when the first result was kept, and when
    <data>/<part>.csv              the pictures: path, label, group, leaked
    <data>/<run>-s<seed>-<part>.csv    logit_<class>… of one training, line by line of the same pictures

`part` is test, or oof. Every figure of the table follows from these. Nothing here imports torch.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from fxcli.data.manifest import digest_of
from fxcli.errors import RunError
from fxcli.evaluation import study as evaluation
from fxcli.evaluation.predictions import Labelled
from fxcli.evaluation.study import Answers
from fxcli.evaluation.table import csv_line
from fxcli.recipe.schema import ClassifyRecipe, StudyComparison, StudyRecipe
from fxcli.recipe.study import Entry
from fxcli.run import provenance
from fxcli.run.directory import find_model, last_pretraining
from fxcli.run.files import sha256_of, write_json, write_text
from fxcli.run.lock import Lock
from fxcli.zoo.plugins import load_zoo

PICTURES = ("path", "label", "group", "leaked")
_LOGIT = "logit_"
_NAMED = "named.json"
# Another process takes as long as a few small files do.
_WAIT_S = 60.0


def deciding_digest(recipe: ClassifyRecipe) -> str:
    """The hash of what decides a result.

    That is neither where the pictures lie nor how a machine computes. Defaults are left out, so that no result is void
    because fx learnt a new key.
    """
    values = recipe.model_dump(mode="json", exclude_defaults=True)
    values.pop("hardware", None)
    values["data"] = {
        key: value for key, value in values["data"].items() if key not in ("manifest", "workers", "cache")
    }
    return provenance.digest(json.dumps(values))


def start_digest(recipe: ClassifyRecipe) -> str | None:
    """The hash of the user's own file that `model.init` means now: of a run, a file, or the last pretraining.

    None where it means published weights or random ones, or nothing that is here.
    """
    init, spec = recipe.model.init, load_zoo().backbone(recipe.model.backbone)
    source = spec.weights.get(init)
    if init == "random" or (source and source.pretrainer is None):
        return None
    try:
        if source is None:
            return sha256_of(find_model(init)[0])
        run = last_pretraining(source.pretrainer, source.backbone)
    except RunError:
        return None
    return sha256_of(run.model_file) if run else None


@dataclass(frozen=True)
class Named:
    """The comparison that was named beforehand.

    Attributes:
        comparison: None: the study had none.
        when: The time, UTC.
    """

    comparison: StudyComparison | None
    when: str


@dataclass(frozen=True)
class Results:
    """A folder of results."""

    folder: Path

    def index(self) -> dict[str, dict[str, Any]]:
        """What is known of each training that is done, by the name of its entry; {} where there is nothing yet.

        Raises:
            RunError: The file is damaged.
        """
        file = self.folder / "index.json"
        if not file.exists():
            return {}
        try:
            value = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise RunError(f"damaged: {error}", where=file, hint="it may hold what a merge left") from error
        wanted: dict[str, Any] = {"run": str, "minutes": float | int, "recipe_sha256": str, "manifest_sha256": str}
        if not isinstance(value, dict) or not all(
            isinstance(line, dict) and all(isinstance(line.get(key), kind) for key, kind in wanted.items())
            for line in value.values()
        ):
            raise RunError(f"damaged: not a line with {', '.join(wanted)} for each training", where=file)
        return value

    def name(self, comparisons: Sequence[StudyComparison]) -> None:
        """Before the first result: keeps which comparison is named beforehand, the first. Later it does nothing."""
        file = self.folder / _NAMED
        with self._alone():
            if not file.exists() and not self.index():
                first = comparisons[0].model_dump(exclude_defaults=True) if comparisons else None
                write_json(file, {"comparison": first, "when": provenance.now()})

    def named(self) -> Named | None:
        """What was named beforehand; None where nobody wrote that down.

        Raises:
            RunError: The file is damaged.
        """
        file = self.folder / _NAMED
        if not file.exists():
            return None
        try:
            value = json.loads(file.read_text(encoding="utf-8"))
            first = value["comparison"] and StudyComparison.model_validate(value["comparison"])
            return Named(first, str(value["when"]))
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise RunError(f"damaged: {error}", where=file, hint="it may hold what a merge left") from error

    def find(self, entry: Entry, index: Mapping[str, dict[str, Any]]) -> dict[str, Any] | None:
        """What the index says of an entry, or None if it is to be trained.

        Raises:
            RunError: It was trained by another recipe or on other pictures.
        """
        line = index.get(entry.name)
        files = [self.file(entry, part) for part in entry.parts]
        files += [self.pictures(entry.data, part) for part in entry.parts]
        if line is None or not all(file.is_file() for file in files):
            return None
        now = {"recipe": deciding_digest(entry.recipe)}
        manifest = Path(str(entry.recipe.data.manifest))
        if manifest.is_file():
            # Without its pictures a result can still be shown.
            now["manifest"] = digest_of(manifest)
        if line.get("init_sha256") and (start := start_digest(entry.recipe)):
            now["init"] = start
        changed = [what for what, digest in now.items() if line.get(f"{what}_sha256") != digest]
        if changed:
            words = ["start (model.init)" if what == "init" else what for what in changed]
            raise self._changed(" and the ".join(words), entry.name)
        return line

    def check(self, data: str, digest: str, index: Mapping[str, dict[str, Any]]) -> None:
        """Whether all results of a study's data are of this manifest, those that the study no longer lists included.

        Raises:
            RunError: They are not.
        """
        for name, line in index.items():
            if line.get("data") == data and line.get("manifest_sha256") != digest:
                raise self._changed("manifest", name)

    def _changed(self, what: str, name: str) -> RunError:
        return RunError(
            f"the {what} of {name} changed since this result was made",
            where=self.folder / "index.json",
            hint="undo the change; or delete this line, to train it anew; or keep both: --set results=ANOTHER_FOLDER",
        )

    def _alone(self) -> Lock:
        """The folder, made where it is not there, for this process alone: machines may share it, and add at once."""
        self.folder.mkdir(parents=True, exist_ok=True)
        return Lock(self.folder, "index.lock.json", wait_s=_WAIT_S)

    def file(self, entry: Entry, part: str) -> Path:
        """The logits of an entry."""
        return self.folder / f"{entry.name}-{part}.csv"

    def pictures(self, data: str, part: str) -> Path:
        """The pictures that these logits are of."""
        return self.folder / data / f"{part}.csv"

    def keep(self, entry: Entry, answers: Mapping[str, Answers], known: Mapping[str, Any]) -> None:
        """Writes what a training said of each part, and at last its line in the index."""
        with self._alone():
            for part, answer in answers.items():
                said, pictures = answer.said, self.pictures(entry.data, part)
                labels = [answer.classes[target] for target in said.targets]
                rows = [csv_line(row) for row in zip(said.paths, labels, said.groups, answer.leaked, strict=True)]
                text = "\n".join([csv_line(PICTURES), *rows]) + "\n"
                pictures.parent.mkdir(parents=True, exist_ok=True)
                write_text(pictures, text)
                columns = csv_line([f"{_LOGIT}{name}" for name in answer.classes])
                rows = [csv_line([f"{value:.6g}" for value in logits]) for logits in said.mean_logits]
                write_text(self.file(entry, part), "\n".join([columns, *rows]) + "\n")
            # Read anew: another process may have added to it.
            index = self.index() | {entry.name: dict(known)}
            lines = [f"{json.dumps(name)}: {json.dumps(index[name], ensure_ascii=False)}" for name in sorted(index)]
            write_text(self.folder / "index.json", "{\n" + ",\n".join(lines) + "\n}\n")

    def read(self, entries: Sequence[Entry], part: str) -> Answers:
        """What the trainings of one run on one data said, one a seed.

        Raises:
            RunError: A file is damaged.
        """
        pictures = self.pictures(entries[0].data, part)
        header, rows = _read(pictures)
        if header != list(PICTURES):
            raise RunError(f"damaged: its columns are not {', '.join(PICTURES)}", where=pictures)
        paths, labels, groups, leaked = zip(*rows, strict=True)
        classes, logits = zip(*(_logits(self.file(entry, part), labels) for entry in entries), strict=True)
        if len(set(classes)) > 1:
            raise RunError(f"damaged: the seeds of {entries[0].run} differ in their classes", where=pictures)
        targets = np.array([classes[0].index(label) for label in labels])
        return Answers(Labelled(paths, groups, targets, np.stack(logits)), np.array(leaked), classes[0])


def report(study: StudyRecipe, entries: Sequence[Entry], results: Results) -> dict[str, list[Any]]:
    """The table of what is done so far.

    Returns:
        rows: data, run, part, published (percent), and `evaluation.study.figures`. comparisons: data, data_b, part, on,
        metric, names, pictures (in words), primary (named beforehand), and where both sides have results the rest of
        `Comparison.to_mapping`. notes: what else to know of these comparisons, in words.

    Raises:
        RunError: A result is damaged, or of another recipe.
    """
    index = results.index()
    done = [entry for entry in entries if results.find(entry, index)]
    answers, rows = {}, []
    for data, (run, about), part in product(study.data, study.runs.items(), ("test", "oof")):
        own = [entry for entry in done if (entry.data, entry.run) == (data, run) and part in entry.parts]
        if own:
            answers[data, run, part] = found = results.read(own, part)
            place = {"data": data, "run": run, "part": part, "published": about.published if part == "test" else None}
            rows.append(place | evaluation.figures(found))
    comparisons, notes = [], []
    named = results.named() if index else None
    for number, asked in enumerate(study.comparisons):
        names = asked.names
        primary = number == 0 and (not index or (named is not None and named.comparison == asked))
        line = {key: getattr(asked, key) for key in ("data", "data_b", "part", "on", "metric")}
        line |= {"names": list(names), "pictures": asked.pictures, "primary": primary}
        a, b = (answers.get((data, run, asked.part)) for run, data in asked.sides)
        if a and b:
            try:
                line |= evaluation.compare(a, b, names, asked.metric, on=asked.on, primary=primary).to_mapping()
            except ValueError as error:
                # After hours of training: whatever else there is, is shown.
                notes.append(f"comparisons.{number} is not possible: {error}")
            notes += _precisions(asked, [index[entry.name] for entry in done])
        comparisons.append(line)
    if any("verdict" in line for line in comparisons) and not comparisons[0]["primary"]:
        notes.insert(0, _not_named(named))
    return {"rows": rows, "comparisons": comparisons, "notes": list(dict.fromkeys(notes))}


def _not_named(named: Named | None) -> str:
    """Why the first comparison does not count as named beforehand."""
    if named is None or named.comparison is None:
        return "all are exploratory: none is known to have been named before the first result"
    other = named.comparison
    what = f"{other.pictures}: {other.names[1]} against {other.names[0]}, {other.metric}"
    return f"all are exploratory: what was named beforehand, on {named.when[:10]}, is another ({what})"


def _precisions(asked: StudyComparison, lines: Sequence[Mapping[str, Any]]) -> list[str]:
    """That the sides of a comparison were trained in different precision, if they were; of the index' lines."""
    precisions = [
        {line["precision"] for line in lines if (line["run"], line["data"]) == side and line.get("precision")}
        for side in asked.sides
    ]
    if len(set.union(*precisions)) < 2:
        return []
    (first, of_first), (second, of_second) = sorted(
        (name, " and ".join(sorted(found))) for name, found in zip(asked.names, precisions, strict=True)
    )
    where = f"{asked.data}: " if asked.names == (asked.a, asked.b) else ""
    return [f"{where}{first} was trained in {of_first}, {second} in {of_second}"]


def states_of(entries: Sequence[Entry], folder: Path, results: Results) -> list[dict[str, Any]]:
    """Of each training: data, run, seed, state (done, begun, missing) and minutes.

    Args:
        entries: In order.
        folder: Of the study's runs.
        results: What is done. The minutes of what is not are the mean of the same run so far, or None.

    Raises:
        RunError: A result is of another recipe.
    """
    index = results.index()
    taken: dict[str, list[float]] = {}
    for line in index.values():
        taken.setdefault(line["run"], []).append(line["minutes"])
    states = []
    for entry in entries:
        known = results.find(entry, index)
        begun = (folder / entry.name / "run.json").is_file()
        mean = round(float(np.mean(taken[entry.run])), 2) if entry.run in taken else None
        place = {"data": entry.data, "run": entry.run, "seed": entry.seed}
        state = "done" if known else "begun" if begun else "missing"
        states.append(place | {"state": state, "minutes": known["minutes"] if known else mean})
    return states


def _logits(file: Path, labels: Sequence[str]) -> tuple[tuple[str, ...], np.ndarray]:
    """Classes, and logits [N, K] of N labelled pictures."""
    columns, rows = _read(file)
    classes = tuple(name.removeprefix(_LOGIT) for name in columns)
    if len(rows) != len(labels) or not set(labels) <= set(classes):
        raise RunError("damaged: not one line for each picture of its part, with its class", where=file)
    try:
        return classes, np.array(rows, dtype=np.float32)
    except ValueError as error:
        raise RunError(f"damaged: {error}", where=file) from error


def _read(file: Path) -> tuple[list[str], list[list[str]]]:
    try:
        with file.open(newline="", encoding="utf-8") as handle:
            header, *rows = csv.reader(handle, strict=True)
    except (OSError, ValueError, csv.Error) as error:
        raise RunError(f"damaged: {error}", where=file) from error
    if not rows or any(len(row) != len(header) for row in rows):
        raise RunError("damaged: no rows, or rows of another length than its header", where=file)
    return header, rows
