"""`python -m fxcli` is the command `fx`."""

from fxcli.cli import main

main()
