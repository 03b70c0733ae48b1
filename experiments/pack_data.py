"""Pack what `reproduce` needs into one small archive, for a machine that has no data of its own.

python experiments/pack_data.py --data chiu2015 --hrf hrf
unzip runs/study-data.zip -d study-data
./run.sh reproduce --data study-data/chiu2015 --hrf study-data/hrf

The scans are those that the study's networks see, 256 x 256, without loss; so are their masks and
those of the vessels. The photographs are at half size, as in pretraining, as JPEG of quality 95:
without loss they would take 72 MiB. The script says how far they are from the originals.
"""

import csv
import io
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dme.common.errors import InputError, run
from dme.common.files import atomic_path, refuse_existing
from dme.common.options import parsed, setting

if TYPE_CHECKING:  # both need torch, for which --help does not wait
    from dme.data.cache import Cache

SCANS, PHOTOGRAPHS = "chiu2015", "hrf"  # folders of the archive
PHOTOGRAPHS_SCALE = 0.5
QUALITY = 95
LIMIT_MIB = 24
MIB = 2**20


@dataclass(frozen=True)
class Settings:
    """Where the sets are, and where the archive goes."""

    data: str | None = setting(None, "the 110 scans: .mat files or folder (default: DME_DATA)")
    hrf: str | None = setting(None, "folder of the HRF set (default: HRF_DATA)")
    out: Path = setting(Path("runs/study-data.zip"), "the archive")


def main() -> None:
    settings = parsed(__doc__, Settings)
    from dme.data.cache import open_cache
    from dme.data.hrf import open_hrf
    from dme.data.opening import open_source
    from dme.inference.sizes import STUDY_SIDE

    refuse_existing(settings.out)
    scans = open_cache(open_source(settings.data), STUDY_SIDE)
    photographs = open_cache(open_hrf(settings.hrf, PHOTOGRAPHS_SCALE))
    if scans.fluid is None:
        raise InputError(
            f"the scans of {scans.description} have no fluid masks, which the study needs"
        )
    # the archive is there whole or not at all
    with atomic_path(settings.out) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        pack_scans(archive, scans)
        distance = pack_photographs(archive, photographs)

    # what came out; an archive that is too large is kept, but is an error
    size = settings.out.stat().st_size / MIB
    print(f"{len(scans)} scans and masks of {STUDY_SIDE} x {STUDY_SIDE}: bit for bit")
    print(f"{len(photographs)} photographs: {distance:.2f} of 255 grey levels from the originals")
    print(f"archive: {settings.out}, {size:.1f} MiB")
    if size > LIMIT_MIB:
        raise InputError(
            f"{settings.out} has {size:.1f} MiB, more than {LIMIT_MIB}; "
            "are these the study's sets?"
        )


def pack_scans(archive: zipfile.ZipFile, scans: "Cache") -> None:
    """Scans, masks and index.csv, as `open_source` reads a folder."""
    index = [("name", "subject", "bscan")]
    for i, name in enumerate(scans.names):
        archive.writestr(f"{SCANS}/images/{name}.png", png(scans.images[i]))
        archive.writestr(f"{SCANS}/fluid/{name}.png", png(scans.fluid[i]))
        eye, position = int(scans.subjects[i]), int(scans.positions[i])
        index.append((name, eye, position))
    file = io.StringIO()
    csv.writer(file, lineterminator="\n").writerows(index)
    archive.writestr(f"{SCANS}/index.csv", file.getvalue())


def pack_photographs(archive: zipfile.ZipFile, photographs: "Cache") -> float:
    """Photographs and vessel masks, as `open_hrf` reads them.

    Returns the mean absolute difference of packed photographs from the originals, in grey levels.
    """
    from PIL import Image
    from tqdm import tqdm

    # each is decoded again, to tell what JPEG costs
    distances = []
    for i, name in enumerate(tqdm(photographs.names, desc="photographs")):
        original = photographs.images[i]
        packed = jpeg(original)
        archive.writestr(f"{PHOTOGRAPHS}/images/{name}.jpg", packed)
        vessels = png(photographs.fluid[i] * np.uint8(255))
        archive.writestr(f"{PHOTOGRAPHS}/vessels/{name}.png", vessels)
        decoded = np.asarray(Image.open(io.BytesIO(packed), formats=("JPEG",))).astype(float)
        distances.append(np.abs(decoded - original).mean())
    return float(np.mean(distances))


def png(pixels: np.ndarray) -> bytes:
    return encoded(pixels, "PNG")


def jpeg(pixels: np.ndarray) -> bytes:
    return encoded(pixels, "JPEG", quality=QUALITY)


def encoded(pixels: np.ndarray, kind: str, **options: int) -> bytes:
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, optimize=True, **options)
    return file.getvalue()


if __name__ == "__main__":
    run(main)
