"""All B-scans of a source in memory: collected and checked, and resized to one square."""

from dataclasses import dataclass, replace

import numpy as np
from PIL import Image
from tqdm import tqdm

from dme.bscan import BScan
from dme.common.errors import InputError
from dme.common.labels import IGNORE
from dme.data.duke import DUKE_SHAPE, FLUID_COLUMNS, is_duke
from dme.data.source import Source


@dataclass
class Cache:
    """All B-scans of a source in memory, ordered by (subject, position).

    images: uint8 (N, H, W), of photographs (N, H, W, 3), when all have one shape, else a list.
    fluid: likewise without channels, of 0, 1 and 255 (unknown); None when the set is not
    annotated.
    layers: float32 (N, 8, W), or a list of (8, W), NaN where ungraded; None when absent or
    resized.
    subjects, positions: int64 (N,). size: side of the resized square, None is native.
    scale_um: (axial, lateral, spacing) of these pixels, without the spacing where it is unknown;
    None when unknown or not the same for all.
    notes: what the source had to say while it was read.
    """

    kind: str
    description: str
    source_sha256: str
    size: int | None
    scale_um: tuple[float, ...] | None
    names: list[str]
    notes: list[str]
    subjects: np.ndarray
    positions: np.ndarray
    images: np.ndarray | list[np.ndarray]
    fluid: np.ndarray | list[np.ndarray] | None
    layers: np.ndarray | list[np.ndarray] | None

    def __len__(self) -> int:
        return len(self.names)

    @property
    def places(self) -> list[tuple[int, int]]:
        """(subject, position) of every scan."""
        return list(zip(self.subjects.tolist(), self.positions.tolist(), strict=True))

    @property
    def is_duke(self) -> bool:
        """Whether these are the 110 scans that Duke's graders annotated, by their places."""
        return is_duke(self.places)

    def central(self, index: int) -> np.ndarray:
        """Columns of a native scan beside which no fluid may only mean unknown, bool (W,).

        They are the columns with layer boundaries, where the scan has any: those its grader
        annotated. Of a scan of Duke's set without boundaries they are FLUID_COLUMNS, which the
        truth of all eyes gave; else all.
        """
        if self.size is not None:
            raise ValueError(
                f"the columns of scans resized to {self.size} pixels; ask the native cache"
            )
        if self.layers is not None:
            known = np.isfinite(self.layers[index]).any(0)
            if known.any():
                return known
        width = self.images[index].shape[1]
        if not self.is_duke:
            return np.ones(width, bool)
        # of a scan of another width those at the same places
        first, last = FLUID_COLUMNS
        begin = first * width // DUKE_SHAPE[1]
        end = (last + 1) * width // DUKE_SHAPE[1]
        columns = np.zeros(width, bool)
        columns[begin:end] = True
        return columns


def collect(source: Source) -> Cache:
    """Read and check all scans of a source. Raises InputError for bad scans and for none."""
    progress = tqdm(source.scans(), desc=f"caching {source.description}", unit="scan")
    scans = [_checked(scan) for scan in progress]
    if not scans:
        raise InputError(f"no B-scans in {source.description}, expected at least one")
    if len({scan.image.ndim for scan in scans}) > 1:
        raise InputError(f"{source.description} mixes grey and colour images, expected one kind")
    notes = list(source.notes)  # complete, now that the scans are read
    _check_all_labelled(scans)
    _fill_layers(scans, notes)
    fluid = layers = None
    if scans[0].fluid is not None:
        fluid = [scan.fluid for scan in scans]
    if scans[0].layers is not None:
        layers = [scan.layers.astype(np.float32) for scan in scans]
    subjects = [scan.subject for scan in scans]
    positions = [scan.position for scan in scans]
    return Cache(
        kind=source.kind,
        description=source.description,
        source_sha256=source.sha256,
        size=None,
        scale_um=_common_scale(scans, notes),
        names=[scan.name for scan in scans],
        notes=notes,
        subjects=np.array(subjects, np.int64),
        positions=np.array(positions, np.int64),
        images=[scan.image for scan in scans],
        fluid=fluid,
        layers=layers,
    )


def _checked(scan: BScan) -> BScan:
    """The same scan, or InputError saying which scan is wrong and how."""
    image = scan.image
    shaped = image.ndim >= 2 and image.shape[2:] in ((), (3,))
    if image.dtype != np.uint8 or not shaped or image.size == 0:
        _refuse(scan, f"image is {image.dtype} {image.shape}", "uint8 (H, W) or (H, W, 3)")

    fluid = scan.fluid
    if fluid is not None:
        if fluid.dtype != np.uint8 or fluid.shape != image.shape[:2]:
            _refuse(scan, f"fluid is {fluid.dtype} {fluid.shape}", f"uint8 {image.shape[:2]}")
        wrong = (fluid > 1) & (fluid != IGNORE)
        if wrong.any():
            values = np.unique(fluid[wrong]).tolist()
            _refuse(scan, f"fluid holds {values}", "only 0, 1 and 255 (unknown)")

    layers = scan.layers
    if layers is not None:
        shape = (8, image.shape[1])
        if layers.dtype.kind != "f" or layers.shape != shape:
            _refuse(scan, f"layers are {layers.dtype} {layers.shape}", f"float {shape}")
    return scan


def _refuse(scan: BScan, found: str, expected: str) -> None:
    raise InputError(f"scan {scan.name}: {found}, expected {expected}")


def _check_all_labelled(scans: list[BScan]) -> None:
    """A set is annotated or it is not; something between hides a missing mask."""
    unlabelled = [scan.name for scan in scans if scan.fluid is None]
    if 0 < len(unlabelled) < len(scans):
        raise InputError(
            f"{len(unlabelled)} of {len(scans)} scans have no fluid labels "
            f"({unlabelled[0]}, ...): expected all or none of them labelled"
        )


def _fill_layers(scans: list[BScan], notes: list[str]) -> None:
    """Scans without layers beside scans with layers are ungraded."""
    ungraded = [scan for scan in scans if scan.layers is None]
    if len(ungraded) in (0, len(scans)):
        return
    notes.append(f"{len(ungraded)} of {len(scans)} scans have no layers: taken as ungraded (NaN)")
    for scan in ungraded:
        width = scan.image.shape[1]
        scan.layers = np.full((8, width), np.nan, np.float32)


def _common_scale(scans: list[BScan], notes: list[str]) -> tuple[float, ...] | None:
    scales = {scan.scale_um for scan in scans}
    if len(scales) > 1:
        notes.append(f"scans have {len(scales)} different pixel scales: taken as unknown")
        return None
    return scales.pop()


def resized(native: Cache, size: int) -> Cache:
    """The set at size x size, without layers; how: see `dme.data.cache.open_cache`."""
    count = len(native)
    channels = native.images[0].shape[2:]
    images = np.empty((count, size, size, *channels), np.uint8)
    fluid = None
    if native.fluid is not None:
        fluid = np.empty((count, size, size), np.uint8)
    for i in tqdm(range(count), desc=f"resizing to {size} x {size}", unit="scan"):
        images[i] = _resize(native.images[i], size, Image.Resampling.BICUBIC)
        if fluid is not None:
            fluid[i] = _resized_labels(native.fluid[i], size)
    notes = list(native.notes)
    return replace(
        native,
        size=size,
        scale_um=_resized_scale(native, size, notes),
        images=images,
        fluid=fluid,
        layers=None,
        notes=notes,
    )


def _resize(array: np.ndarray, size: int, resampling: Image.Resampling) -> np.ndarray:
    image = Image.fromarray(array)
    return np.asarray(image.resize((size, size), resampling))


def _resized_labels(labels: np.ndarray, size: int) -> np.ndarray:
    """Fluid bicubic, as in the study, and the unknown nearest, uint8 (size, size)."""
    fluid = (labels == 1).astype(np.uint8)
    unknown = (labels == IGNORE).astype(np.uint8)
    resized_fluid = _resize(fluid, size, Image.Resampling.BICUBIC).copy()
    resized_unknown = _resize(unknown, size, Image.Resampling.NEAREST)
    resized_fluid[resized_unknown == 1] = IGNORE
    return resized_fluid


def _resized_scale(native: Cache, size: int, notes: list[str]) -> tuple[float, ...] | None:
    if native.scale_um is None:
        return None
    if isinstance(native.images, list):
        notes.append(f"scans of several shapes resized to {size} x {size}: scale unknown")
        return None
    # a pixel covers more or less than before; the spacing between B-scans stays
    height, width = native.images.shape[1:3]
    axial, lateral, *spacing = native.scale_um
    return (axial * height / size, lateral * width / size, *spacing)
