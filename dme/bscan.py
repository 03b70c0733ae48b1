"""The record type that every source yields."""

from dataclasses import dataclass

import numpy as np


@dataclass
class BScan:
    """One optical-coherence-tomography B-scan with what is known about it.

    image: uint8 (H, W), H axial (depth), W lateral.
    fluid: uint8 (H, W) of 0 background, 1 fluid, 255 unknown; None when nobody annotated it.
    layers: float32 (8, W), row of each boundary from ILM to RPE/choroid, NaN where ungraded; None
    if absent.
    subject: eye or patient number, from 1; position: index of the B-scan in its volume, from 0.
    scale_um: (axial, lateral, spacing) in micrometres per pixel, per pixel, per B-scan, the
    last left out where it is unknown; None when all is.
    regions: uint8 (H, W), the number that its grader gave to each region of fluid, 0 elsewhere;
    None where regions have no numbers.
    """

    name: str
    image: np.ndarray
    fluid: np.ndarray | None = None
    layers: np.ndarray | None = None
    subject: int = 1
    position: int = 0
    scale_um: tuple[float, ...] | None = None
    regions: np.ndarray | None = None
