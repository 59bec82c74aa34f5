"""A plugin of fx: the backbone demo_tiny.

Put a network of your own into `build`, and say what is true of it in the spec; `python -m pytest` holds it to the
contract of a backbone, which fxcli.BackboneSpec describes.
"""

from fxcli import BackboneArgs, BackboneSpec, InputSpec, Stage, hookimpl

# From input to output; each parameter is in one of them. Freezing, rates by depth and detectors go by stages.
STAGES = (
    Stage(name="stem", modules=("stem",), stride=4, channels=16),
    Stage(name="body", modules=("body",), stride=8, channels=32),
)


@hookimpl
def fx_register_backbones(register):
    """Registers demo_tiny."""
    register(
        BackboneSpec(
            name="demo_tiny",
            build=build,
            num_features=STAGES[-1].channels,
            stages=STAGES,
            input=InputSpec(size_px=64),
            summary="two convolutions, to show how a plugin is made",
        )
    )


def build(args: BackboneArgs):
    """Images [B, 3, H, W] → activated feature map [B, 32, H/8, W/8], with random weights."""
    # torch is imported here, not above: `fx --help` imports this module too.
    from collections import OrderedDict

    from torch import nn

    if args.drop_path:
        raise ValueError("demo_tiny has no stochastic depth")
    stem = nn.Sequential(nn.Conv2d(3, 16, 4, stride=4, bias=False), nn.BatchNorm2d(16), nn.ReLU())
    body = nn.Sequential(nn.Conv2d(16, 32, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU())
    return nn.Sequential(OrderedDict(stem=stem, body=body))
