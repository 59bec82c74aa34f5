"""A whole plugin: pretraining by SimSiam (Chen & He 2021), one view predicting another without negatives or a copy."""

from pydantic import BaseModel, ConfigDict, Field

from fxcli import PretrainArgs, PretrainerSpec, hookimpl


class Options(BaseModel):
    """What `pretrain.options` of a recipe may say."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    dim: int = Field(512, ge=1, description="numbers per picture that the loss compares")
    min_crop_frac: float = Field(0.2, gt=0, le=1, description="smallest fraction of the area that a crop keeps")


@hookimpl
def fx_register_pretrainers(register):
    """Registers simsiam."""
    register(
        PretrainerSpec(
            name="simsiam",
            views=views,
            build=build,
            options=Options,
            summary="one view predicts another, whose gradient is stopped (Chen & He 2021)",
        )
    )


def views(args: PretrainArgs):
    """The transforms of two views alike, each uint8 [1, H, W] → uint8 [3, S, S]."""
    # torch is imported here, not above: `fx --help` imports this module too.
    from torchvision.transforms import v2

    view = v2.Compose(
        [
            v2.RandomResizedCrop(args.image_size_px, scale=(args.options.min_crop_frac, 1.0)),
            v2.RandomHorizontalFlip(0.5),
            v2.RandomApply([v2.ColorJitter(brightness=0.4, contrast=0.4)], p=0.8),
            v2.RGB(),
        ]
    )
    return view, view


def build(backbone, args: PretrainArgs):
    """The backbone with SimSiam's projector and predictor."""
    from torch import cat, nn
    from torch.nn.functional import cosine_similarity

    dim = args.options.dim

    class SimSiam(nn.Module):
        def __init__(self):
            super().__init__()
            self.backbone = backbone
            self.projector = nn.Sequential(
                nn.Linear(args.num_features, dim, bias=False),
                nn.BatchNorm1d(dim),
                nn.ReLU(),
                nn.Linear(dim, dim, bias=False),
                nn.BatchNorm1d(dim, affine=False),
            )
            narrow = max(1, dim // 4)
            layers = nn.Linear(dim, narrow, bias=False), nn.BatchNorm1d(narrow), nn.ReLU(), nn.Linear(narrow, dim)
            self.predictor = nn.Sequential(*layers)

        def loss(self, views):
            seen = [self.projector(self.backbone(images).mean(dim=(2, 3))) for images in views]
            self.embeddings = cat(seen).detach()  # optional: fx watches whether they collapse
            said = [self.predictor(each) for each in seen]
            pairs = ((said[0], seen[1]), (said[1], seen[0]))
            return -sum(cosine_similarity(p, z.detach(), dim=1).mean() for p, z in pairs) / 2

        def after_step(self, progress):
            """Nothing moves but what learns."""

    return SimSiam()
