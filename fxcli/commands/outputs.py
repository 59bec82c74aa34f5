"""What `fx predict` is to write, and where: with a classifier (answer, spread) and with a detector (locate)."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from fxcli.console import console
from fxcli.data.parquet import require
from fxcli.errors import MissingDependency, SomeRowsFailed, UsageError


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

    def tell(self, file_name: str, count: int, failed: int, notice: str) -> None:
        """Says at the end what was written where.

        Args:
            file_name: Of the rows, in `out`.
            count: Pictures.
            failed: Of them those that could not be read.
            notice: What holds for all that was told.

        Raises:
            SomeRowsFailed: There are such.
        """
        rows = str(self.out / file_name) if self.out else "the output"
        places = (("heat maps", self.cam), ("boxes", self.boxes), ("features", self.features))
        beside = [f"{what} in {where}" for what, where in places if where]
        console.note(", ".join([f"{count} pictures", *beside, *([rows] if self.out else [])]))
        console.note(notice)
        if failed:
            raise SomeRowsFailed(failed, count, rows)
