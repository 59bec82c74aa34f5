"""The plugin that is always there: everything that fx registers itself, through the same hooks as a stranger."""

from __future__ import annotations

from fxcli.zoo.detectors import fx_register_detectors
from fxcli.zoo.resnet import fx_register_backbones

__all__ = ["fx_register_backbones", "fx_register_detectors"]
