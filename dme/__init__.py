"""dme: retinal OCT segmentation from pretrained networks with very few labelled scans."""

from importlib import import_module
from typing import Any

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
