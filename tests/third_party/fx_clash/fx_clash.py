"""Registers a name that fx-demo registers too."""

from fxcli import BackboneSpec, Stage, hookimpl


@hookimpl
def fx_register_backbones(register):
    stages = (Stage(name="all", modules=("",), stride=8, channels=8),)
    register(BackboneSpec(name="demo_tiny", build=build, num_features=8, stages=stages, summary="the other"))


def build(args):
    from torch import nn

    return nn.Sequential(nn.Conv2d(3, 8, 8, stride=8), nn.ReLU())
