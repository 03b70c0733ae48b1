"""Pack what `reproduce` needs into one small archive, for a machine that has no data of its own.

python experiments/pack_data.py --data chiu2015 --hrf hrf
unzip runs/study-data.zip -d study-data && ./run.sh reproduce --data study-data/chiu2015 --hrf study-data/hrf

The scans are those that the study's networks see, 256 x 256, without loss; so are their masks and those of
the vessels. The photographs are at half size, as in pretraining, as JPEG of quality 95: without loss they
would take 72 MiB. The script says how far they are from the originals.
"""

import argparse
import csv
import io
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from dme.common.errors import InputError, run
from dme.common.files import atomic_path
from dme.data.cache import open_cache
from dme.data.hrf import open_hrf
from dme.data.opening import open_source
from dme.inference.sizes import STUDY_SIDE

PHOTOGRAPHS_SCALE = 0.5
QUALITY = 95
LIMIT_MIB = 24


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--data", help=".mat files or folder of the 110 scans (default: DME_DATA)")
    add("--hrf", help="folder of the HRF set (default: HRF_DATA)")
    add("--out", type=Path, default=Path("runs/study-data.zip"), help="the archive")
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    scans = open_cache(open_source(args.data), STUDY_SIDE)
    photographs = open_cache(open_hrf(args.hrf, PHOTOGRAPHS_SCALE))
    if scans.fluid is None:
        raise InputError(
            f"the scans of {scans.description} have no fluid masks, which the study needs"
        )
    distances = []
    with atomic_path(args.out) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        rows = [["name", "subject", "bscan"]]
        places = zip(scans.names, scans.subjects.tolist(), scans.positions.tolist(), strict=True)
        for i, (name, subject, position) in enumerate(places):
            archive.writestr(f"chiu2015/images/{name}.png", png(scans.images[i]))
            archive.writestr(f"chiu2015/fluid/{name}.png", png(scans.fluid[i]))
            rows.append([name, subject, position])
        archive.writestr("chiu2015/index.csv", table(rows))
        for i, name in enumerate(tqdm(photographs.names, desc="photographs")):
            photograph = jpeg(photographs.images[i])
            archive.writestr(f"hrf/images/{name}.jpg", photograph)
            archive.writestr(f"hrf/vessels/{name}.png", png(photographs.fluid[i] * np.uint8(255)))
            decoded = np.asarray(Image.open(io.BytesIO(photograph))).astype(float)
            distances.append(np.abs(decoded - photographs.images[i]).mean())
    size = args.out.stat().st_size / 2**20
    print(f"{len(scans)} scans and masks of {STUDY_SIDE} x {STUDY_SIDE}: bit for bit")
    print(
        f"{len(photographs)} photographs: {np.mean(distances):.2f} of 255 grey levels from the originals"
    )
    print(f"archive: {args.out}, {size:.1f} MiB")
    if size > LIMIT_MIB:
        raise InputError(
            f"{args.out} has {size:.1f} MiB, more than {LIMIT_MIB}; are these the study's sets?"
        )


def png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", optimize=True)
    return file.getvalue()


def jpeg(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=QUALITY, optimize=True)
    return file.getvalue()


def table(rows: list[list]) -> str:
    file = io.StringIO()
    csv.writer(file, lineterminator="\n").writerows(rows)
    return file.getvalue()


if __name__ == "__main__":
    run(main)
