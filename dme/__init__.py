"""dme: retinal OCT segmentation from pretrained networks with very few labelled scans."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # what editors and type checkers read; __getattr__ brings the same names
    from dme import losses as losses
    from dme.common.errors import InputError as InputError
    from dme.inference.scan import predict as predict
    from dme.inference.scan import predict_layers as predict_layers
    from dme.inference.scan import predict_volume as predict_volume
    from dme.inference.windows import sliding_window as sliding_window
    from dme.metrics import scores as scores
    from dme.nets.loading import load_model as load_model
    from dme.nets.loading import load_openmmlab as load_openmmlab
    from dme.nets.segmenter import build_model as build_model
    from dme.ops.confusion import confusion_matrix as confusion_matrix

__version__ = "0.1.0"

# public name -> its module, imported when the name is first asked for: `import dme` needs no torch
_HOMES = {
    "InputError": "dme.common.errors",
    "build_model": "dme.nets.segmenter",
    "confusion_matrix": "dme.ops.confusion",
    "load_model": "dme.nets.loading",
    "load_openmmlab": "dme.nets.loading",
    "predict": "dme.inference.scan",
    "predict_layers": "dme.inference.scan",
    "predict_volume": "dme.inference.scan",
    "scores": "dme.metrics",
    "sliding_window": "dme.inference.windows",
}
__all__ = ["__version__", "losses", *_HOMES]


def __getattr__(name: str) -> Any:
    """A public name that has not been asked for before (PEP 562)."""
    if name == "losses":
        return import_module("dme.losses")
    if name not in _HOMES:
        raise AttributeError(f"module 'dme' has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value  # asked for once only
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
