"""Every net of timm as `timm:<name>`, where it gives a square feature map.

fx train final --set model.backbone=timm:swin_tiny_patch4_window7_224

Registered here without torch; `family` imports it and timm when the first name is asked for.
"""

from __future__ import annotations

from collections.abc import Callable

from fxcli import BackboneFamily, BackboneSpec, hookimpl


@hookimpl
def fx_register_backbones(register: Callable[[BackboneFamily], None]) -> None:
    """Registers the family timm:<name>."""
    summary = "any net of timm that gives a square feature map, e.g. timm:resnet34 or timm:vit_tiny_patch16_224"
    register(BackboneFamily(prefix="timm", resolve=_resolve, summary=summary))


def _resolve(name: str) -> BackboneSpec:
    from fx_timm.family import resolve

    return resolve(name)
