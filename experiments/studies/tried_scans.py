"""The scans that a study tries: of a set with the truth it needs all, or those of a split."""

from typing import TYPE_CHECKING

import numpy as np

from dme.common.errors import InputError

if TYPE_CHECKING:  # --help is answered without torch
    from dme.data.scan_set import Cache
    from dme.data.source import Source

# of a cache -> what a set without it is told
TRUTHS = {
    "fluid": "fluid masks; give labelled scans, or let `healthy` name those without fluid",
    "layers": "layer boundaries; give a folder with boundaries/NAME.npy beside images/",
}


def scans_with(
    truth: str, source: "Source", split: str | None = None
) -> tuple["Cache", np.ndarray]:
    """The scans of a source, and the places of those that are tried, int (N,).

    truth: one of TRUTHS. split: its validation scans, such as subject:1/5 (default: all scans).
    Raises InputError for a set without that truth.
    """
    from dme.data.cache import open_cache
    from dme.data.splits import split_indices

    cache = open_cache(source)
    if getattr(cache, truth) is None:
        raise InputError(f"the scans of {cache.description} have no {TRUTHS[truth]}")
    if not split:
        return cache, np.arange(len(cache))
    _, validation = split_indices(cache, split)
    return cache, validation
