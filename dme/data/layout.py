"""Where a folder keeps its images and their masks: our own layout, and those of others.

images/ beside fluid/ or masks/    ours
imagesTr/ beside labelsTr/         nnU-Net: scan_0000.png and scan.png
img_dir/ beside ann_dir/           MMSegmentation, in both the same folders, such as train/, val/
bscan/ beside semseg/, INFO.json   MIRAGE benchmark, in one folder or in train/, val/, test/
scan.png beside scan_mask.png      in one folder, or in images/
scan.jpg beside scan.png           in one folder, the mask being the one with few values
"""

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dme.common.errors import InputError
from dme.common.words import IMAGE_SUFFIXES
from dme.data import mirage
from dme.data.image_files import read_picture
from dme.data.source import by_stem, files_in, listing, natural

MASK_FOLDERS = ("fluid", "masks")
NNUNET = ("imagesTr", "labelsTr")
MMSEG = ("img_dir", "ann_dir")
CHANNEL = re.compile(r"(.+)_(\d{4})")  # nnU-Net's names of images
MASK_NAME = re.compile(r"(.+)[ _.-](?:mask|masks|label|labels|seg|segmentation|gt|fluid)", re.I)
JPEGS = (".jpg", ".jpeg")
MOST_LABELS = 16  # different values in a mask beside a photograph of the same name
ENFACE_NAME = re.compile(r"(?:.*[^a-z])?(?:en[ _-]?face|slo|localizer|fundus)(?:[^a-z].*)?", re.I)
LEAST_ALIKE = 4  # B-scans of one size, beside which one of another size is conspicuous


@dataclass(frozen=True)
class Layout:
    """Images by name in natural order, and their masks by the same names; None without masks."""

    images: dict[str, Path]
    masks: dict[str, Path] | None
    mask_place: str  # for messages
    note: str | None = None
    classes: Path | None = None  # folder with MIRAGE's list of what values of masks mean


def find_layout(root: Path) -> Layout:
    """What a folder holds. Raises InputError for two layouts in one, and for names that clash."""
    # of other programs
    if (root / NNUNET[0]).is_dir():
        return _nnunet(root)
    if (root / MMSEG[0]).is_dir():
        return _mmseg(root)
    if mirage.is_mirage(root):
        return _mirage(root)

    # ours, masks in a folder of their own or beside the images
    folder = image_folder(root)
    own = [root / name for name in MASK_FOLDERS if (root / name).is_dir()]
    if len(own) == 2:
        raise InputError(f"{root} has both fluid/ and masks/: keep one")
    if own:
        masks = files_in(own[0], IMAGE_SUFFIXES)
        return Layout(files_in(folder, IMAGE_SUFFIXES), masks, str(own[0]))
    files = [file for file in sorted(folder.iterdir(), key=natural) if _is_image(file)]
    beside = masks_beside(files)
    if not beside:
        return Layout(files_in(folder, IMAGE_SUFFIXES), None, str(root))
    images = by_stem(file for file in files if file not in beside.values())
    by_name = {image.stem: mask for image, mask in beside.items()}
    image, mask = next(iter(beside.items()))
    note = f"masks beside their images, as {mask.name} beside {image.name}"
    return Layout(images, by_name, str(folder), note)


def image_folder(root: Path) -> Path:
    """Where the images of our own layout lie."""
    return root / "images" if (root / "images").is_dir() else root


def images_by_name(files: Iterable[Path]) -> dict[str, Path]:
    """Images of one folder by the names that masks and index.csv call them.

    Those are their stems, in nnU-Net's folder without the channel. Raises InputError for two
    images of one name.
    """
    files = list(by_stem(files).values())
    images: dict[str, Path] = {}
    for file in files:
        channel = CHANNEL.fullmatch(file.stem) if file.parent.name == NNUNET[0] else None
        name = channel[1] if channel else file.stem
        if name in images:
            found = f"{images[name].name} and {file.name} are channels of one scan"
            raise InputError(f"{file.parent}: {found}; keep the one that is the B-scan")
        images[name] = file
    return images


def _is_image(file: Path) -> bool:
    return file.name[0] != "." and file.suffix.lower() in IMAGE_SUFFIXES and file.is_file()


def _nnunet(root: Path) -> Layout:
    images = images_by_name(files_in(root / NNUNET[0], IMAGE_SUFFIXES).values())
    masks = None
    if (root / NNUNET[1]).is_dir():
        masks = files_in(root / NNUNET[1], IMAGE_SUFFIXES)
    note = f"laid out as nnU-Net: {NNUNET[0]}/ and {NNUNET[1]}/"
    return Layout(images, masks, str(root / NNUNET[1]), note)


def _mmseg(root: Path) -> Layout:
    """Images and masks of all folders, such as train and val, that both sides have."""
    image_root = root / MMSEG[0]
    mask_root = root / MMSEG[1]
    annotated = mask_root.is_dir()
    parts = [Path(".")]
    for folder in sorted(image_root.iterdir(), key=natural):
        if folder.is_dir() and (not annotated or (mask_root / folder.name).is_dir()):
            parts.append(Path(folder.name))

    # a name may be used once
    images: dict[str, Path] = {}
    masks: dict[str, Path] = {}
    for part in parts:
        here = files_in(image_root / part, IMAGE_SUFFIXES)
        twice = here.keys() & images.keys()
        if twice:
            name = min(twice)
            raise InputError(f"{images[name]} and {here[name]} have the same name: rename one")
        images |= here
        if annotated:
            masks |= files_in(mask_root / part, IMAGE_SUFFIXES)
    names = [str(part) for part in parts[1:]]
    note = f"laid out as MMSegmentation: {MMSEG[0]}/ and {MMSEG[1]}/"
    if names:
        note += f", folders {listing(names)} taken together"
    return Layout(images, masks if annotated else None, str(mask_root), note)


def _mirage(root: Path) -> Layout:
    """Names begin with the part: train_, val_, test_."""
    images, masks, notes = mirage.files_of(root)
    note = "; ".join(["laid out as the MIRAGE benchmark", *notes])
    classes = root if masks else None
    return Layout(images, masks or None, str(root / mirage.MASKS), note, classes)


# ---- masks beside images ------------------------------------------------------------------------
def masks_beside(files: Iterable[Path]) -> dict[Path, Path]:
    """Image -> mask, of the files of one folder whose names or content tell them apart."""
    by_stem: dict[str, list[Path]] = {}
    for file in files:
        by_stem.setdefault(file.stem, []).append(file)
    masks = {}
    for stem, same in by_stem.items():
        # scan_mask.png beside scan.png
        match = MASK_NAME.fullmatch(stem)
        images = by_stem.get(match[1], []) if match else []
        if len(same) == len(images) == 1:
            masks[images[0]] = same[0]
        # scan.png beside scan.jpg
        if len(same) == 2:
            photographs = [file for file in same if file.suffix.lower() in JPEGS]
            others = [file for file in same if file not in photographs]
            if len(others) == 1 and _holds_labels(others[0]):
                masks[photographs[0]] = others[0]
    return masks


def _holds_labels(file: Path) -> bool:
    """Whether an image has so few values that it is a mask."""
    try:
        pixels = read_picture(file, palette_colours=False).pixels
    except InputError:
        return False
    return len(np.unique(pixels)) <= MOST_LABELS


# ---- the picture of the eye's surface beside its B-scans ----------------------------------------
def enface_pictures(shapes: dict[Path, tuple[int, int]]) -> list[Path]:
    """Files, given with their (height, width), that show the surface of the eye and no B-scan.

    Known by their names, or as the only square one beside several that have one other size.
    """
    named = [file for file in shapes if ENFACE_NAME.fullmatch(file.stem)]
    if named:
        return named if len(named) < len(shapes) else []
    sizes = Counter(shapes.values()).most_common()
    if len(sizes) != 2 or sizes[0][1] < LEAST_ALIKE or sizes[1][1] != 1:
        return []
    height, width = sizes[1][0]
    if height != width:
        return []
    return [file for file, shape in shapes.items() if shape == (height, width)]
