"""Every net of timm as `timm:<name>`, where it gives a square feature map, or by timm's own name for one of the hub.

fx train final --set model.backbone=timm:swin_tiny_patch4_window7_224
fx train final --set model.backbone=hf_hub:timm/resnet50.a1_in1k

Registered here without torch; `family` imports it and timm when the first name is asked for.
"""

from __future__ import annotations

from collections.abc import Callable

from fxcli import BackboneFamily, BackboneSpec, hookimpl


@hookimpl
def fx_register_backbones(register: Callable[[BackboneFamily], None]) -> None:
    """Registers timm:<name>, and the two ways in which timm writes what is loaded from the Hugging Face hub."""
    summary = "any net of timm that gives a square feature map, e.g. timm:resnet34 or timm:vit_tiny_patch16_224"
    register(BackboneFamily(prefix="timm", resolve=_resolve, summary=summary))
    summary = "the same by its repository on the Hugging Face hub, with the weights there: {}:timm/resnet50.a1_in1k"
    for prefix in ("hf_hub", "hf-hub"):
        register(BackboneFamily(prefix=prefix, resolve=_of_hub, summary=summary.format(prefix)))


def _resolve(name: str) -> BackboneSpec:
    from fx_timm.family import resolve

    return resolve(name)


def _of_hub(repository: str) -> BackboneSpec:
    from fx_timm.family import of_hub

    return of_hub(repository)
