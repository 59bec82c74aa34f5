"""What `fx predict --on ray` does: pictures → answers in shards, on the machines of a cluster."""

from __future__ import annotations

import os
import secrets
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fxcli.console import console
from fxcli.errors import SomeRowsFailed

if TYPE_CHECKING:
    from tqdm import tqdm

    from fxcli.commands.outputs import Outputs
    from fxcli.data.paths import PathStyle
    from fxcli.inference.verdict import Judge


def spread(
    make: Callable[[], Judge], files: list[Path], names: PathStyle, workers: int | None, wanted: Outputs
) -> None:
    """Writes a row for each picture that has none.

    Args:
        make: Opens the model, here and on each machine.
        files: The pictures.
        names: How rows call them.
        workers: Cores of each actor.
        wanted: With a folder of the rows.

    Raises:
        SomeRowsFailed: Some could not be read.
        FxError: The cluster cannot be used, or a machine of it cannot do its part.
    """
    from fxcli.data.names import path_cell
    from fxcli.data.paths import Shown
    from fxcli.data.radiograph import Caution, warn_of
    from fxcli.evaluation.predictions import notice
    from fxcli.inference import on_ray, shards
    from fxcli.inference.notes import named_by

    judge, out = make(), wanted.out or Path()
    shown = Shown.of(names, files)
    pictures = list(
        shards.cut((Path(os.path.abspath(path)) for path in files), (path_cell(shown(path)) for path in files))
    )
    cores = max(1, workers or 1)
    failed, cautions = 0, Counter[str]()
    made_with = judge.made_with()
    again = {"resume": wanted.resume, "overwrite": wanted.overwrite}
    with shards.going_to(out, made_with | named_by(shown, files), **again) as kept:
        todo = kept.missing(pictures)
        if todo:
            task = on_ray.Task(make, made_with, os.path.abspath(kept.folder), secrets.token_hex(8), cores)
            done = len(files) - sum(len(shard.files) for shard in todo)
            bar: tqdm[Any] = console.progress(total=len(files), done=done, what="predict")
            with on_ray.cluster(cores=cores) as room, bar:
                kept.begin()  # not before there is somebody who answers
                for told in on_ray.written(task, todo, room=room):
                    failed += told.failed
                    cautions.update(told.cautions)
                    bar.update(told.rows)
        kept.finish(pictures)
    warn_of(Caution(text) for text in cautions.elements())
    console.note(f"{len(files)} pictures, {kept.file}")
    console.note(notice(judge.opened.model.info))
    if failed:
        raise SomeRowsFailed(failed, len(files), kept.file)
