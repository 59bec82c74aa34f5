"""What `fx predict` is to write, and where: with a classifier (answer, spread) and with a detector (locate)."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fxcli.console import console
from fxcli.data.parquet import require
from fxcli.errors import DataError, MissingDependency, SomeRowsFailed, UnreadableImage, UsageError

if TYPE_CHECKING:
    from fxcli.data.paths import PathStyle, Shown
    from fxcli.evaluation.lines import Lines
    from fxcli.explain.places import Drawing
    from fxcli.inference.rows import Rows
    from fxcli.report.gallery import Gallery, Views

# Not as the true boxes of a prepared folder are called: what is found must never take their place.
COCO = "found.coco.json"


@dataclass(frozen=True)
class Outputs:
    """Options of fx predict, by their names there.

    Attributes:
        out: Folder of the rows; None: stdout.
        cam: Folder of heat maps.
        boxes: Folder of outlines and COCO.
        features: Folder of features.
        report: File of the page to look at.
        resume: Whether to go on with what a stopped prediction left.
        overwrite: Whether to replace what is there.
        strict: Whether the first picture that cannot be read ends it.
        json: Whether rows are JSON Lines.
        parquet: Whether complete rows are wanted as Parquet, too.
        on_ray: Whether a cluster answers, and writes Parquet alone.
    """

    out: Path | None
    cam: Path | None
    boxes: Path | None
    features: Path | None
    report: Path | None
    resume: bool
    overwrite: bool
    strict: bool
    json: bool
    parquet: bool
    on_ray: bool

    def check(self) -> None:
        """Whether they go together.

        Raises:
            UsageError: They do not.
            MissingDependency: Of Parquet or Ray, where they are wanted.
        """
        on_stdout = "rows on stdout are not kept"
        if self.resume and (self.out is None or self.overwrite):
            raise UsageError("--resume goes with --out DIR, and without --overwrite", hint=on_stdout)
        if self.overwrite and not (self.out or self.report or self.features or self.boxes):
            given = "--out DIR, --boxes DIR, --features DIR or --report FILE"
            raise UsageError(f"--overwrite goes with {given}", hint=on_stdout)
        if self.on_ray:
            if self.out is None:
                raise UsageError("--on ray goes with --out DIR", hint="DIR/predictions.parquet gets the rows")
            if self.cam or self.boxes or self.features or self.report or self.strict or self.json:
                raise UsageError("--on ray writes Parquet: no --cam, --boxes, --features, --report, --strict or --json")
            if find_spec("ray") is None:
                raise MissingDependency("ray", extra="ray", purpose="--on ray")
        if self.parquet and (self.out is None or self.json):
            raise UsageError("--parquet goes with --out DIR, and without --json", hint=on_stdout)
        if self.parquet or self.on_ray:
            require()
        if self.resume and self.report:
            raise UsageError("--report shows what is predicted now: it does not go with --resume")
        if self.resume and self.features:
            hint = "without --features it goes on with the rows; --overwrite begins anew with both"
            raise UsageError("--features are written in one go, and --resume cannot go on with them", hint=hint)

    def begun(
        self,
        files: Sequence[Path],
        names: PathStyle,
        classes: Sequence[str],
        made_with: Mapping[str, Any],
        boxes_with: Mapping[str, Any] | None = None,
    ) -> Begun:
        """Everything in place for these pictures, and nothing of others in its way.

        Args:
            files: That were asked for.
            names: How rows call them.
            classes: Of the classifier; none of a detector alone.
            made_with: All that rows depend on, but the pictures.
            boxes_with: All that outlines of boxes depend on, likewise; None: as rows.

        Raises:
            NothingFound: All of them were drawn by earlier commands.
            UsageError: What is drawn would take the place of a picture, or of another drawing.
            DataError: There is a COCO file or a page already.
        """
        from fxcli.data.names import path_cell
        from fxcli.data.paths import Shown
        from fxcli.explain.places import Drawing, check_apart, check_places, output_names, pictures_beside
        from fxcli.inference.features import SHEET
        from fxcli.inference.notes import named_by
        from fxcli.report.gallery import Gallery

        for folder in filter(None, (self.cam, self.boxes, self.features)):
            files = pictures_beside(folder, files)
        shown = Shown.of(names, files)
        named = named_by(shown, files)
        rows_with, outlines_with = ({**each, **named} for each in (made_with, boxes_with or made_with))
        stems = output_names(files, shown) if self.cam or self.boxes else []
        cells = [path_cell(shown(path)) for path in files] if stems else []

        def drawings(folder: Path | None, drawn_with: Mapping[str, Any]) -> list[Drawing]:
            if folder is None:
                return []
            beside = zip(stems, cells, strict=True)
            return [Drawing.beside(folder / f"{stem}.png", cell, drawn_with) for stem, cell in beside]

        maps, outlines = drawings(self.cam, rows_with), drawings(self.boxes, outlines_with)
        sheet = [self.features / SHEET] if self.features else []
        check_places([*sheet, *([self.report] if self.report else [])], files, may_replace=True)
        places = {"a heat map": [each.file for each in maps], "the outlines of boxes": [each.file for each in outlines]}
        for files_drawn in places.values():
            check_places(files_drawn, files)
        check_apart({**places, "the sheet of neighbours": sheet})
        coco = self._coco(outlines_with)
        gallery = Gallery.begun(self.report, len(files), classes, overwrite=self.overwrite) if self.report else None
        return Begun(self, list(files), shown, rows_with, gallery, maps, outlines, coco)

    def _coco(self, drawn_with: Mapping[str, Any]) -> Drawing | None:
        """The COCO file, which --resume replaces where it is of the rows in --out DIR alone."""
        from fxcli.explain.places import Drawing

        if self.boxes is None:
            return None
        rows = os.path.realpath(self.out) if self.out else ""
        coco = Drawing.beside(self.boxes / COCO, rows, drawn_with)
        if coco.file.exists() and not (self.overwrite or (self.resume and coco.is_of_row())):
            what, hint = "this file exists", "--overwrite replaces it; --boxes names another folder"
            if self.resume:
                what += f", and nothing tells that it is of the rows in {self.out}"
                # Not --overwrite, which would do all rows again.
                hint = "move it elsewhere, and --resume writes it anew; --boxes names another folder"
            raise DataError(what, where=coco.file, hint=hint)
        return coco


@dataclass
class Begun:
    """What a prediction writes, and of which pictures; it grows by rows.

    Attributes:
        wanted: The options.
        files: The pictures, without what earlier commands drew beside them.
        shown: How rows call them.
        made_with: What the rows of one file have in common.
        gallery: The page to look at, if it is wanted.
        maps: A heat map of each picture, or none at all.
        outlines: Likewise of its boxes.
        coco: The COCO file of all boxes, if it is wanted.
    """

    wanted: Outputs
    files: list[Path]
    shown: Shown
    made_with: Mapping[str, Any]
    gallery: Gallery | None
    maps: list[Drawing]
    outlines: list[Drawing]
    coco: Drawing | None
    # For COCO, where rows on stdout are all there is.
    _records: list[Mapping[str, Any]] = field(default_factory=list, repr=False)

    def called(self, path: Path) -> str:
        """What the row of a picture calls it."""
        from fxcli.data.names import path_cell

        return path_cell(self.shown(path))

    def going_to(self, lines: Lines) -> contextlib.AbstractContextManager[Rows]:
        """What takes the rows; see rows.going_to."""
        from fxcli.inference import rows

        wanted = self.wanted
        again = {"resume": wanted.resume, "overwrite": wanted.overwrite, "as_parquet": wanted.parquet}
        return rows.going_to(wanted.out, lines, self.made_with, **again)

    def missing(self, rows: Rows) -> Sequence[int]:
        """The indices of pictures without a row, or without what is drawn beside it.

        A heat map that is of no answer is taken away, and so is what a killed command left of its drawings.
        """
        from fxcli.explain.png import sweep

        def is_drawn(index: int, is_answer: bool) -> bool:
            if self.maps and not is_answer:
                self.maps[index].remove()
            wanted = [*(self.maps[index : index + 1] if is_answer else ()), *self.outlines[index : index + 1]]
            return all(each.is_there(self.files[index]) for each in wanted)

        todo = rows.missing(self.files, self.called, is_drawn)
        if self.wanted.resume:
            sweep([each[index].file for each in (self.maps, self.outlines) if each for index in todo])
        return todo

    def take(self, rows: Rows, path: Path, record: Mapping[str, Any], views: Views | None) -> None:
        """Takes the row of a picture.

        Raises:
            UnreadableImage: It tells that there is none, and that ends it.
        """
        rows.write(record)
        if self.gallery:
            self.gallery.add(record, views)
        if self.wanted.boxes and not self.wanted.out:
            self._records.append(record)
        if self.wanted.strict and record["status"] == "error":
            raise UnreadableImage(path, record["reason"])

    def finish(
        self,
        file_name: str,
        failed: int,
        notice: str,
        about: str,
        classes: Sequence[str] = (),
        least: float | None = None,
    ) -> None:
        """Writes what is of all pictures at once, and says what was written where.

        Args:
            file_name: Of the rows.
            failed: How many pictures could not be read.
            notice: What holds for all that was told.
            about: The model, in words.
            classes: Of the detector, if one looked.
            least: Likewise: the score from which on boxes were told.

        Raises:
            SomeRowsFailed: Some could not be read.
        """
        from fxcli.evaluation.box_table import found_coco, read_told
        from fxcli.explain.png import OF
        from fxcli.run.files import write_json

        wanted, rows = self.wanted, str(self.wanted.out / file_name) if self.wanted.out else "the output"
        if self.gallery:
            self.gallery.write(notice, about)
        if self.coco:
            self.coco.file.parent.mkdir(parents=True, exist_ok=True)
            records = self._records
            if wanted.out:
                with (wanted.out / file_name).open(encoding="utf-8", newline="") as lines:
                    records = read_told(lines, json_lines=wanted.json)
            made = found_coco(records, classes)
            # Near the beginning, where it is looked for.
            write_json(self.coco.file, {**made, "info": {OF: self.coco.of, **made["info"]}})
        places = (("heat maps", wanted.cam), ("boxes", wanted.boxes), ("features", wanted.features))
        # Of no answer there is no heat map, and where there was none no folder.
        beside = [f"{what} in {where}" for what, where in places if where and where.is_dir()]
        console.note(", ".join([f"{len(self.files)} pictures", *beside, *([rows] if wanted.out else [])]))
        console.note(notice if least is None else f"boxes of a score of {least:.3f} or more; {notice}")
        if failed:
            raise SomeRowsFailed(failed, len(self.files), rows)
