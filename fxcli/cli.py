"""Mounts the commands and turns errors into exit codes. Nothing here imports torch."""

from __future__ import annotations

import functools
import inspect
import io
import os
import sys
import traceback
from collections.abc import Callable
from typing import Annotated, Any, NoReturn

import typer

from fxcli import __version__
from fxcli.commands.cam import cam
from fxcli.commands.doctor import doctor
from fxcli.commands.evaluate import evaluate
from fxcli.commands.export import export
from fxcli.commands.plugins import app as plugins_app
from fxcli.commands.predict import predict
from fxcli.commands.prepare import prepare
from fxcli.commands.recipe import app as recipe_app
from fxcli.commands.report import report
from fxcli.commands.runs import runs
from fxcli.commands.train import train
from fxcli.console import INTENDED_USE, console
from fxcli.errors import DataError, FxError, Interrupted, memory_used_up

app = typer.Typer(
    name="fx",
    help=f"Tells fracture types on radiographs. {INTENDED_USE}",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    # Importing what draws help with rich takes longer than all else that `fx --help` does.
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


# Of a training.
_SMALLER = "lower train.batch_size (and raise train.accumulate), evaluate.batch_size or data.image_size_px"


def _guarded(command: Callable[..., None]) -> Callable[..., None]:
    """The command with its errors shown as one block and turned into exit codes."""

    @functools.wraps(command)
    def run(*args: Any, **kwargs: Any) -> None:
        try:
            command(*args, **kwargs)
        except (typer.Exit, typer.Abort, typer.BadParameter):
            raise
        except FxError as error:
            _fail(error)
        except KeyboardInterrupt:
            _fail(Interrupted("interrupted"))
        except BrokenPipeError:
            # The reader of our stdout has left (`| head`): nothing is wrong, and nothing more can be written.
            _drop_stdout()
        except OSError as error:
            _fail(
                DataError(
                    f"{error.strerror or error}", where=error.filename, hint="check the space and permissions there"
                )
            )
        except Exception as error:
            if whose := memory_used_up(error):
                has_own = "batch_size" in inspect.signature(command).parameters
                hint = "a smaller --batch-size takes less" if has_own else _SMALLER
                _fail(FxError(f"the memory of the {whose} is used up", hint=hint))
            _fail(
                FxError(
                    f"internal error: {type(error).__name__}: {error}",
                    hint="this is a defect of fx: please report it with what --debug prints",
                )
            )

    return run


def _fail(error: FxError) -> NoReturn:
    if console.debug:
        traceback.print_exc()
    console.error(error)
    try:
        sys.stdout.flush()
    except OSError:
        # What cannot be written now cannot at exit, which would end with another code.
        _drop_stdout()
    raise typer.Exit(error.exit_code)


def _drop_stdout() -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _version(wanted: bool) -> None:
    if wanted:
        console.data(f"fx {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


def _summary(command: Callable[..., None]) -> str:
    """The first paragraph of its help, whole: Click would cut it off at the end of a line."""
    return " ".join((inspect.getdoc(command) or "").partition("\n\n")[0].split())


for _command in (prepare, train, evaluate, predict, cam, export, report, runs, doctor):
    app.command(_command.__name__, short_help=_summary(_command))(_guarded(_command))
for _name, _group in (("plugins", plugins_app), ("recipe", recipe_app)):
    for _info in (*_group.registered_commands, _group.registered_callback):
        if _info and _info.callback:
            _info.short_help = _summary(_info.callback)
            _info.callback = _guarded(_info.callback)
    app.add_typer(_group, name=_name)


def main() -> None:
    """Entry point of `fx` and `python -m fxcli`."""
    for stream in (sys.stdout, sys.stderr):
        # File names may hold bytes that are no text in any encoding; a row must come out all the same.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")
    app(prog_name="fx")
