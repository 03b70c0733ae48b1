"""The High-Resolution Fundus set (Budai et al. 2013, CC BY 4.0): 45 fundus photographs with hand-drawn vessels.

Records are BScans whose `image` is RGB (H, W, 3) and whose `fluid` holds the vessel mask: label 1 is the positive class.
"""

import hashlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from dme.bscan import BScan
from dme.errors import InputError
from dme.files import sha256_file
from dme.sources import Source

FULL_SIZE = (2336, 3504)  # height, width
GROUPS = ("dr", "g", "h")  # diabetic retinopathy, glaucoma, healthy
TRAIN_NUMBERS = range(1, 6)  # OpenMMLab trains on 01-05 of each group and validates on 06-15


def open_hrf(path: str | Path | None = None, scale: float = 1.0) -> Source:
    """Open a folder with `images/NN_GROUP.*` and `vessels/` (or `manual1/`) of the same names.

    path: the folder, else the environment variable HRF_DATA. scale: the pictures are reduced to this share of their
    size (box average; a mask pixel is vessel when at least half of what it covers is). Raises InputError when the
    folder is missing or incomplete, or a picture has another size than its mask.
    """
    path = path or os.environ.get("HRF_DATA")
    if not path:
        raise InputError("no fundus images: set HRF_DATA or give --data the folder with images/ and vessels/ of the HRF set")
    root = Path(path)
    masks_folder = next((root / name for name in ("vessels", "manual1") if (root / name).is_dir()), None)
    if not (root / "images").is_dir() or masks_folder is None:
        raise InputError(f"{root} has no images/ beside vessels/ (or manual1/); point HRF_DATA at the unpacked HRF set")
    images = {f.stem.lower(): f for f in sorted((root / "images").iterdir()) if re.fullmatch(r"\d\d_(dr|g|h)", f.stem.lower())}
    masks = {f.stem.lower(): f for f in masks_folder.iterdir()}
    wanted = [f"{number:02d}_{group}" for number in range(1, 16) for group in GROUPS]
    missing = [name for name in wanted if name not in images or name not in masks]
    if missing:
        raise InputError(f"{root} lacks the image or mask of {len(missing)} of 45 photographs ({', '.join(missing[:5])} ...)")
    digest = hashlib.sha256(f"hrf {scale}".encode())
    for name in wanted:
        digest.update(f"{sha256_file(images[name])} {sha256_file(masks[name])}\n".encode())

    def read(source: Source, labelled_only: bool) -> Iterator[BScan]:
        for number in range(1, 16):
            for position, group in enumerate(GROUPS):
                yield _read(f"{number:02d}_{group}", images, masks, number, position, scale)

    description = f"45 fundus photographs of the HRF set in {root}, at {scale:g} of their size"
    return Source("hrf", str(root), digest.hexdigest(), description, read)


def _read(name: str, images: dict, masks: dict, number: int, position: int, scale: float) -> BScan:
    try:
        image = Image.open(images[name]).convert("RGB")
        mask = Image.open(masks[name]).convert("L").point(lambda v: 255 * (v > 0))
    except OSError as e:
        raise InputError(f"cannot read the photograph or mask {name}: {e}") from e
    if image.size != mask.size:
        raise InputError(f"{name}: the image is {image.size}, its mask {mask.size} (width, height); they must agree")
    if scale != 1:
        size = (round(image.width * scale), round(image.height * scale))
        image, mask = (picture.resize(size, Image.Resampling.BOX) for picture in (image, mask))
    vessels = (np.asarray(mask) >= 128).astype(np.uint8)
    return BScan(name, np.asarray(image), vessels, subject=number, position=position)


def split_hrf(names: list[str]) -> tuple[list[int], list[int]]:
    """OpenMMLab's split: indices of the 15 training and 30 validation photographs."""
    train = [i for i, name in enumerate(names) if int(name[:2]) in TRAIN_NUMBERS]
    return train, [i for i in range(len(names)) if i not in train]
