"""Its hook lacks an s."""

from fxcli import hookimpl


@hookimpl
def fx_register_backbone(register):
    raise AssertionError("never called")
