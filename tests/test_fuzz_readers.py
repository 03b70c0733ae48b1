"""Whatever is in a file: what a reader makes of it, or one line that names the file."""

import csv
import os
import shutil
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random

import h5py
import numpy as np
import pytest
from helpers.finetuning import make_checkpoint, make_folder
from helpers.fuzzing import damaged, limits
from helpers.matfiles import write_subject_mat
from helpers.scan_files import flat, picture
from helpers.scripts import call_main, load_script
from helpers.tiny_training import fit
from PIL import Image

from dme.common.errors import InputError
from dme.data.cache import open_cache
from dme.data.images import to_grey_uint8
from dme.data.opening import open_source
from dme.nets.loading import load_model
from dme.report.compare import compare
from dme.report.inputs import list_items

SEED = int(os.environ.get("DME_FUZZ_SEED", 0))
RUNS = int(os.environ.get("DME_FUZZ_RUNS", 40))  # of each reader


MENDED = ("cache", "log of a run")  # made again, or gone on without what is lost


@dataclass(frozen=True)
class Reader:
    """A file that is read, and how: `make` writes it and what it needs; returns its path."""

    make: Callable[[Path], Path]
    read: Callable[[Path], None]


def predicted(path: Path) -> None:
    """As `predict` reads its inputs."""
    items, faults = list_items([str(path)])
    assert all("\n" not in fault for fault in faults.values())
    for item in items:
        for scan in item.scans(set()):
            image, _ = to_grey_uint8(scan.read())
            assert image.dtype == np.uint8 and image.ndim == 2 and image.size


def trained_on(path: Path) -> None:
    """As `finetune` reads a folder: the file lies two floors below it, or one."""
    root = path.parent if path.name == "index.csv" else path.parent.parent
    cache = open_cache(open_source(root))
    for mask in cache.fluid:
        assert set(np.unique(mask)) <= {0, 1, 255}


def trained_on_mat(path: Path) -> None:
    open_cache(open_source(path))


def picture_as(suffix: str, **options) -> Callable[[Path], Path]:
    def make(root: Path) -> Path:
        path = root / f"scan{suffix}"
        Image.fromarray(picture()).save(path, **options)
        return path

    return make


def deep_picture(root: Path) -> Path:
    path = root / "deep.png"
    Image.fromarray(picture().astype(np.uint16) * 16).save(path)
    return path


def array(root: Path) -> Path:
    np.save(root / "volume.npy", np.stack([picture(), picture(seed=1)]))
    return root / "volume.npy"


def matlab(root: Path) -> Path:
    pixels = np.stack([picture(), picture(seed=1)], axis=2)
    layers = np.stack([flat(), flat()], axis=2)
    write_subject_mat(root / "Subject_01.mat", pixels, (pixels > 100).astype(np.uint8), layers)
    return root / "Subject_01.mat"


def matlab_73(root: Path) -> Path:
    path = root / "Subject_02.mat"
    with h5py.File(path, "w", userblock_size=512) as f:
        f["images"] = np.stack([picture(), picture(seed=1)]).transpose(0, 2, 1)
    header = b"MATLAB 7.3 MAT-file".ljust(124) + b"\0\2IM"
    with open(path, "r+b") as f:
        f.write(header)
    return path


def own_folder(file: str) -> Callable[[Path], Path]:
    def make(root: Path) -> Path:
        folder = make_folder(root / "own", wet=(1, 1, 0))
        (folder / "boundaries").mkdir()
        for i in range(3):
            np.save(folder / "boundaries" / f"scan{i:02}.npy", flat(width=128).astype(np.float32))
        with open(folder / "index.csv", "w", newline="") as f:
            table = csv.writer(f)
            table.writerow(["name", "subject", "bscan", "axial_um", "lateral_um", "spacing_um"])
            table.writerows([f"scan{i:02}", 1, i, 3.9, 11.3, 120] for i in range(3))
        return folder / file

    return make


def cached(root: Path) -> Path:
    """The file in the cache of a folder of scans."""
    folder = own_folder("images/scan00.png")(root).parent.parent
    open_cache(open_source(folder))
    (path,) = [path for path in (root / "cache").rglob("*") if path.suffix == ".h5"]
    return path


def trained_from_cache(path: Path) -> None:
    root = next(folder for folder in path.parents if (folder / "own").is_dir())
    cache = open_cache(open_source(root / "own"))
    assert len(cache) == 3 and all(image.size for image in cache.images)


def results(file: str) -> Callable[[Path], Path]:
    """A file that `predict` leaves of a volume."""

    def make(root: Path) -> Path:
        volume = array(root)
        call_main(load_script("predict"), volume, "--scale", "4,10,120", "--out", root / "visit")
        return root / "visit" / file

    return make


def compared(path: Path) -> None:
    compare(path.parent, path.parent)


def run_folder(file: str) -> Callable[[Path], Path]:
    """A file of a training that is complete: resuming reads it all the same."""

    def make(root: Path) -> Path:
        fit(root / "run", iters=2)
        shutil.copytree(root / "run", root / "stopped")
        return root / "run" / file

    return make


def resumed(path: Path) -> None:
    for whole in path.parent.with_name("stopped").iterdir():
        if whole.is_file() and whole.name != path.name:
            shutil.copy(whole, path.parent)
    fit(path.parent, iters=2, resume=True)


READERS = {
    "png": Reader(picture_as(".png"), predicted),
    "png of 16 bits": Reader(deep_picture, predicted),
    "jpeg": Reader(picture_as(".jpg"), predicted),
    "tiff": Reader(picture_as(".tif", compression="tiff_lzw"), predicted),
    "plain tiff": Reader(picture_as(".tif"), predicted),
    "bmp": Reader(picture_as(".bmp"), predicted),
    "npy": Reader(array, predicted),
    "mat": Reader(matlab, predicted),
    "mat to train on": Reader(matlab, trained_on_mat),
    "mat 7.3": Reader(matlab_73, predicted),
    "image": Reader(own_folder("images/scan01.png"), trained_on),
    "mask": Reader(own_folder("fluid/scan01.png"), trained_on),
    "boundaries": Reader(own_folder("boundaries/scan01.npy"), trained_on),
    "index": Reader(own_folder("index.csv"), trained_on),
    "cache": Reader(cached, trained_from_cache),
    "results": Reader(results("measurements.json"), compared),
    "state of a run": Reader(run_folder("last.pt"), resumed),
    "log of a run": Reader(run_folder("metrics.jsonl"), resumed),
    "checkpoint": Reader(lambda root: make_checkpoint(root / "m.pth"), load_model),
}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of what is damaged
@pytest.mark.parametrize("name", READERS)
def test_no_damage_ends_in_a_traceback(name, tmp_path, monkeypatch):
    monkeypatch.setenv("DME_CACHE", str(tmp_path / "cache"))
    reader = READERS[name]
    draw = Random(zlib.crc32(name.encode()) + SEED)
    path = reader.make(tmp_path)
    whole = path.read_bytes()
    reader.read(path)

    faults = []
    refused = 0
    for number in range(RUNS):
        content = damaged(whole, draw)
        path.unlink(missing_ok=True)
        path.write_bytes(content)
        try:
            with limits():
                reader.read(path)
        except InputError as e:
            refused += 1
            if len(str(e).splitlines()) != 1:
                faults.append((number, f"several lines: {e}"))
        except BaseException as e:  # a traceback, or a hang
            kept = os.environ.get("DME_FUZZ_KEEP")
            if kept:
                Path(kept, f"{name.replace(' ', '_')}-{SEED}-{number}").write_bytes(content)
            faults.append((number, repr(e)[:300]))
    assert not faults, "\n".join(map(str, faults))
    assert refused or name in MENDED
