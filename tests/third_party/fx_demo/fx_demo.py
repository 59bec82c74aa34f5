"""A whole plugin: one small backbone. Copy this file and its pyproject.toml to begin one of your own."""

from fxcli import BackboneArgs, BackboneSpec, InputSpec, Stage, hookimpl


@hookimpl
def fx_register_backbones(register):
    """Registers demo_tiny."""
    register(
        BackboneSpec(
            name="demo_tiny",
            build=build,
            num_features=32,
            stages=(
                Stage(name="stem", modules=("stem",), stride=4, channels=16),
                Stage(name="body", modules=("body",), stride=8, channels=32),
            ),
            input=InputSpec(size_px=64),
            summary="two convolutions, to show how a plugin is made",
        )
    )


def build(args: BackboneArgs):
    """Images [B, 3, H, W] → activated feature map [B, 32, H/8, W/8]."""
    # torch is imported here, not above: `fx --help` imports this module too.
    from collections import OrderedDict

    from torch import nn

    if args.drop_path:
        raise ValueError("demo_tiny has no stochastic depth")
    stem = nn.Sequential(nn.Conv2d(3, 16, 4, stride=4, bias=False), nn.BatchNorm2d(16), nn.ReLU())
    body = nn.Sequential(nn.Conv2d(16, 32, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU())
    return nn.Sequential(OrderedDict(stem=stem, body=body))
