"""Commands on detectors; for test_predict_boxes and test_evaluate_boxes."""

import csv
import io

from typer.testing import CliRunner

from fxcli.cli import app


def fx(*arguments, code=0, **more):
    done = CliRunner().invoke(app, [str(each) for each in arguments], **more)
    assert done.exit_code == code, done.output
    return done


def rows_of(text):
    return list(csv.DictReader(io.StringIO(text)))
