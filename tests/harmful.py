"""The command as it must end, whatever harm is done, and limits; for test_hostile* and test_faults_told."""

from typer.testing import CliRunner

from fxcli.cli import app
from fxcli.console import console

# Seconds that a refusal may take, on a busy machine.
SOON_S = 5
LIMIT_MIB = 400


def fx(*arguments):
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    console.configure()
    assert "Traceback" not in done.output
    assert "internal error" not in done.output
    return done
