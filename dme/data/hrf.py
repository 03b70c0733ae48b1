"""The High-Resolution Fundus set (Budai et al. 2013, CC BY 4.0): 45 photographs with hand-drawn
vessels.

Records are BScans whose `image` is RGB uint8 (H, W, 3) and whose `fluid` is the vessel mask, of 0
and 1.
"""

import hashlib
import io
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from dme.bscan import BScan
from dme.common.errors import InputError
from dme.common.files import sha256_file
from dme.data.image_files import FORMATS, read_content, refuse_large
from dme.data.source import Source

GROUPS = ("dr", "g", "h")  # diabetic retinopathy, glaucoma, healthy
SIZE = (3504, 2336)  # width and height of the photographs
NAMES = [f"{number:02d}_{group}" for number in range(1, 16) for group in GROUPS]
TRAIN_NUMBERS = range(1, 6)  # OpenMMLab trains on 01-05 of each group and validates on 06-15


def open_hrf(path: str | Path | None = None, scale: float = 1.0) -> Source:
    """Open a folder with `images/NN_GROUP.*` and masks of the same names in `vessels/` or
    `manual1/`.

    path: the folder, else the environment variable HRF_DATA. scale: the pictures are reduced to
    this share of their size, by box averaging; a mask pixel is vessel when at least half of what
    it covers is. A copy of the set that holds them at that size already (see
    experiments/pack_data.py) is taken as it is.
    Raises InputError when the folder is missing or incomplete, or a picture has another size than
    its mask.
    """
    path = path or os.environ.get("HRF_DATA")
    if not path:
        raise InputError(
            "no fundus photographs: give `data` or HRF_DATA the folder of the unpacked HRF set"
        )
    if not 0 < scale <= 1:
        raise InputError(
            f"scale is {scale}; it must be above 0 and at most 1, the photographs' own size"
        )
    root = Path(path)
    images, masks = _files(root)
    digest = hashlib.sha256(f"hrf {scale}".encode())
    for name in NAMES:
        digest.update(f"{sha256_file(images[name])} {sha256_file(masks[name])}\n".encode())

    def read(source: Source, labelled_only: bool) -> Iterator[BScan]:
        for i, name in enumerate(NAMES):
            image, vessels = _read(images[name], masks[name], scale)
            number, group = divmod(i, len(GROUPS))
            yield BScan(name, image, vessels, subject=number + 1, position=group)

    text = f"45 fundus photographs of the HRF set in {root}, at {scale:g} of their size"
    return Source("hrf", str(root), digest.hexdigest(), text, read)


def _files(root: Path) -> tuple[dict[str, Path], dict[str, Path]]:
    """Images and vessel masks by name, or InputError when any is missing."""
    images = root / "images"
    masks = root / "vessels"
    if not masks.is_dir():
        masks = root / "manual1"  # as the original archive calls it
    if not images.is_dir() or not masks.is_dir():
        raise InputError(
            f"{root} has no images/ beside vessels/ or manual1/; give the unpacked HRF set"
        )
    image_files = _by_name(images)
    mask_files = _by_name(masks)
    complete = image_files.keys() & mask_files.keys()
    missing = [name for name in NAMES if name not in complete]
    if missing:
        some = ", ".join(missing[:5])
        if len(missing) > 5:
            some += ", ..."
        raise InputError(
            f"{root} lacks image or mask of {len(missing)} of the 45 photographs: {some}"
        )
    return image_files, mask_files


def _by_name(folder: Path) -> dict[str, Path]:
    files = sorted(folder.iterdir())
    return {file.stem.lower(): file for file in files}


def _read(image_file: Path, mask_file: Path, scale: float) -> tuple[np.ndarray, np.ndarray]:
    """Photograph uint8 (H, W, 3) and vessel mask uint8 (H, W) of 0 and 1."""
    image = _open(image_file, "RGB")
    mask = _open(mask_file, "L")
    if image.size != mask.size:
        raise InputError(
            f"{image_file} is {_size(image)} pixels, its mask {_size(mask)}; they must agree"
        )
    mask = mask.point(lambda value: 255 * (value > 0))

    # a copy of the set that was reduced before is taken as it is
    packed = image.size == _scaled(SIZE, scale)
    if scale != 1 and not packed:
        size = _scaled(image.size, scale)
        image = image.resize(size, Image.Resampling.BOX)
        mask = mask.resize(size, Image.Resampling.BOX)
    vessels = np.asarray(mask) >= 128  # where at least half of what a pixel covers is
    return np.asarray(image), vessels.astype(np.uint8)


def _open(file: Path, mode: str) -> Image.Image:
    content = read_content(file)
    try:
        image = Image.open(io.BytesIO(content), formats=FORMATS)
        refuse_large(file, image)
        return image.convert(mode)
    except InputError:
        raise
    except Exception as e:  # Pillow raises OSError, SyntaxError, ValueError, ... on broken files
        raise InputError(f"cannot read {file}: {e}; unpack the HRF set again") from e


def _scaled(size: tuple[int, int], scale: float) -> tuple[int, int]:
    width = max(1, round(size[0] * scale))
    height = max(1, round(size[1] * scale))
    return width, height


def _size(picture: Image.Image) -> str:
    return f"{picture.height} x {picture.width}"


def split_hrf(names: list[str]) -> tuple[list[int], list[int]]:
    """OpenMMLab's split: indices of the 15 training and 30 validation photographs."""
    train = []
    validation = []
    for i, name in enumerate(names):
        side = train if int(name[:2]) in TRAIN_NUMBERS else validation
        side.append(i)
    return train, validation
