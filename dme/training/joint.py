"""Networks that are trained together."""

from torch import Tensor, nn

from dme.nets.segmenter import Segmenter


class Joint(nn.Module):
    """Segmenters that share backbone and auxiliary head, trained together; usually just one.

    forward: normalised (N, C, H, W) -> logits of each decode head in order, then those of the
    auxiliary head, if there is one.
    """

    def __init__(self, models: dict[str, Segmenter]) -> None:
        super().__init__()
        self.models = nn.ModuleDict(models)
        first, *others = models.values()
        for model in others:
            if model.backbone is not first.backbone or model.aux_head is not first.aux_head:
                raise ValueError(
                    "models trained jointly must share one backbone and one auxiliary head"
                )

    def forward(self, x: Tensor) -> list[Tensor]:
        models = list(self.models.values())
        first = models[0]
        features = first.backbone(x)
        logits = [model.head(features) for model in models]
        if first.aux_head is not None:
            logits.append(first.aux_head(features))
        return logits
