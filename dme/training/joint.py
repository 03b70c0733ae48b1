"""Networks that are trained together."""

from torch import Tensor, nn

from dme.nets.segmenter import Segmenter


class Joint(nn.Module):
    """Segmenters that share backbone and auxiliary head, trained together; usually just one.

    forward: normalised (N, C, H, W) -> logits of each decode head in order, then those of the
    auxiliary head, if there is one.
    """

    def __init__(self, models: dict[str, Segmenter]):
        super().__init__()
        self.models = nn.ModuleDict(models)
        first, *others = models.values()
        if any(
            m.backbone is not first.backbone or m.aux_head is not first.aux_head for m in others
        ):
            raise ValueError(
                "models trained jointly must share one backbone and one auxiliary head"
            )

    def forward(self, x: Tensor) -> list[Tensor]:
        models = list(self.models.values())
        features = models[0].backbone(x)
        logits = [m.head(features) for m in models]
        return logits if models[0].aux_head is None else [*logits, models[0].aux_head(features)]
