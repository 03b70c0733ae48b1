"""dme: retinal OCT segmentation from pretrained networks with very few labelled scans."""

from dme.infer import sliding_window
from dme.metrics import scores
from dme.model import build_model
from dme.ops.confusion import confusion_matrix
from dme.predict import predict, predict_layers
from dme.weights import load_model, load_openmmlab

__all__ = [
    "build_model",
    "confusion_matrix",
    "load_model",
    "load_openmmlab",
    "predict",
    "predict_layers",
    "scores",
    "sliding_window",
]
