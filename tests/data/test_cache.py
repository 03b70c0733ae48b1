"""dme.data.cache: what comes back is what went in, whatever happens to the file or to whoever
writes it.
"""

import dataclasses
import hashlib
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

from dme.bscan import BScan
from dme.common.errors import InputError
from dme.data.cache import open_cache
from dme.data.cache_file import checksum, read_cache
from dme.data.opening import open_source

SHA = hashlib.sha256(b"fake").hexdigest()


@dataclasses.dataclass
class FakeSource:
    """The attributes of dme.data.source.Source, around scans made by hand."""

    records: list[BScan]
    sha256: str = SHA
    kind: str = "fake"
    path: str = ""
    description: str = "made by hand"
    notes: list[str] = dataclasses.field(default_factory=list)
    read: int = 0

    def scans(self):
        self.read += 1
        yield from self.records
        self.notes.append("read to the end, 3 µm")


def make_scans(
    shapes=((12, 10),) * 3, fluid=True, layers=False, scale_um=(3.87, 11.5, 123.0)
) -> list[BScan]:
    rng = np.random.default_rng(0)
    scans = []
    for i, (h, w) in enumerate(shapes):
        image = rng.integers(0, 256, (h, w), np.uint8)
        labels = rng.choice(np.array([0, 1, 255], np.uint8), (h, w)) if fluid else None
        rows = rng.uniform(0, h, (8, w)).astype(np.float32) if layers else None
        if layers:
            rows[:, :2] = np.nan
        scans.append(BScan(f"eye µ_{i}", image, labels, rows, i // 2 + 1, 10 + i, scale_um))
    return scans


def assert_holds(cache, scans: list[BScan]) -> None:
    assert len(cache) == len(scans) and cache.names == [s.name for s in scans]
    assert cache.subjects.dtype == cache.positions.dtype == np.int64
    assert cache.subjects.tolist() == [s.subject for s in scans]
    assert cache.positions.tolist() == [s.position for s in scans]
    for key, attribute in (("images", "image"), ("fluid", "fluid"), ("layers", "layers")):
        want = [getattr(s, attribute) for s in scans]
        if want[0] is None:
            assert getattr(cache, key) is None
        else:
            for got, wanted in zip(getattr(cache, key), want, strict=True):
                assert got.dtype == wanted.dtype
                np.testing.assert_array_equal(got, wanted)


def only_file(folder: Path) -> Path:
    """The one cache file; anything else but the lock is a leftover."""
    files = [f for f in folder.iterdir() if not f.name.endswith(".lock")]
    assert len(files) == 1, files
    return files[0]


def test_round_trip(tmp_path):
    source = FakeSource(make_scans(layers=True))
    built = open_cache(source, folder=tmp_path)
    opened = open_cache(source, folder=tmp_path)
    assert source.read == 1
    for cache in (built, opened):
        assert_holds(cache, source.records)
        assert cache.images.shape == cache.fluid.shape == (3, 12, 10) and cache.layers.shape == (
            3,
            8,
            10,
        )
        assert (
            cache.scale_um == (3.87, 11.5, 123.0)
            and cache.size is None
            and cache.source_sha256 == SHA
        )
        assert cache.kind == "fake" and cache.description == "made by hand"
        assert cache.notes == ["read to the end, 3 µm"]
    assert only_file(tmp_path).name == f"fake-{SHA[:12]}-native.h5"
    moved = dataclasses.replace(source, description="the same scans elsewhere")
    assert open_cache(moved, folder=tmp_path).description == moved.description and source.read == 1


def test_scans_of_different_sizes(tmp_path):
    source = FakeSource(make_scans(((12, 10), (12, 9), (7, 10)), layers=True, scale_um=None))
    open_cache(source, folder=tmp_path)
    cache = open_cache(source, folder=tmp_path)
    assert_holds(cache, source.records)
    assert (
        isinstance(cache.images, list)
        and isinstance(cache.fluid, list)
        and isinstance(cache.layers, list)
    )
    assert cache.scale_um is None


def test_unlabelled_set(tmp_path):
    source = FakeSource(make_scans(fluid=False))
    assert_holds(open_cache(source, folder=tmp_path), source.records)
    small = open_cache(source, 8, tmp_path)
    assert small.fluid is None and small.images.shape == (3, 8, 8)


def test_missing_layers_and_scales_are_noted(tmp_path):
    scans = make_scans(layers=True)
    scans[1].layers, scans[2].scale_um = None, (1.0, 2.0, 3.0)
    cache = open_cache(FakeSource(scans), folder=tmp_path)
    assert np.isnan(cache.layers[1]).all() and not np.isnan(cache.layers[2]).all()
    assert cache.scale_um is None
    assert (
        "1 of 3 scans have no layers" in cache.notes[1]
        and "2 different pixel scales" in cache.notes[2]
    )


def test_resized_equals_pillow(tmp_path):
    scans = make_scans(((40, 60),) * 3)
    scans[0].fluid[5:25, 5:35] = 1
    scans[1].fluid[:, 45:] = 255
    source = FakeSource(scans)
    cache = open_cache(source, 16, tmp_path)
    for i, scan in enumerate(scans):
        image = Image.fromarray(scan.image).resize((16, 16), Image.BICUBIC)
        fluid = np.array(
            Image.fromarray((scan.fluid == 1).astype(np.uint8)).resize((16, 16), Image.BICUBIC)
        )
        # nearest of Pillow takes the pixel below the centre of the target pixel
        rows, columns = (
            ((np.arange(16) + 0.5) * 40 / 16).astype(int),
            ((np.arange(16) + 0.5) * 60 / 16).astype(int),
        )
        fluid[scan.fluid[np.ix_(rows, columns)] == 255] = 255
        np.testing.assert_array_equal(cache.images[i], np.array(image))
        np.testing.assert_array_equal(cache.fluid[i], fluid)
    assert set(np.unique(cache.fluid)) == {0, 1, 255}
    assert cache.scale_um == pytest.approx((3.87 * 40 / 16, 11.5 * 60 / 16, 123.0))
    assert cache.size == 16 and cache.layers is None
    again = open_cache(source, 16, tmp_path)
    np.testing.assert_array_equal(again.fluid, cache.fluid)
    assert source.read == 1 and len(list(tmp_path.glob("*.h5"))) == 2


def test_resized_from_different_sizes(tmp_path):
    cache = open_cache(FakeSource(make_scans(((12, 10), (9, 10)))), 8, tmp_path)
    assert cache.images.shape == cache.fluid.shape == (2, 8, 8)
    assert cache.scale_um is None and "scale unknown" in cache.notes[-1]


def test_real_256_is_the_study_set(real_data, tmp_path):
    folder = real_data / "chiu2015"
    cache = open_cache(open_source(folder), 256, tmp_path)
    assert cache.names == [f"img_{i:03d}" for i in range(110)]
    for i, name in enumerate(cache.names):
        image = Image.open(folder / "images" / f"{name}.png").resize((256, 256), Image.BICUBIC)
        mask = (np.asarray(Image.open(folder / "fluid" / f"{name}.png")) > 0).astype(np.uint8)
        np.testing.assert_array_equal(cache.images[i], np.asarray(image))
        np.testing.assert_array_equal(
            cache.fluid[i], np.asarray(Image.fromarray(mask).resize((256, 256), Image.BICUBIC))
        )


def flip_pixel(path: Path) -> None:
    with h5py.File(path, "r") as file:
        at = file["fluid"].id.get_offset() + 17
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


def set_attribute(key: str, value):
    def change(path: Path) -> None:
        with h5py.File(path, "r+") as file:
            file.attrs[key] = value

    return change


def drop_images(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        del file["images"]


def write_foreign_hdf5(path: Path) -> None:
    path.unlink()
    with h5py.File(path, "w") as file:
        file["x"] = 1


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:-100]), "truncated"),
        (lambda path: path.write_bytes(b""), "signature not found"),
        (lambda path: path.write_text("not a cache, " * 400), "signature not found"),
        (write_foreign_hdf5, "format is None, expected 1"),
        (flip_pixel, "checksum of fluid differs"),
        (drop_images, "images"),
        (set_attribute("format", 0), "format is 0, expected 1"),
        (set_attribute("source_sha256", np.bytes_("f" * 64)), "source_sha256 is"),
        (set_attribute("size", 256), "size is 256, expected 0"),
    ],
)
def test_useless_cache_is_reported_and_built_again(tmp_path, capsys, damage, reason):
    source = FakeSource(make_scans(layers=True))
    open_cache(source, folder=tmp_path)
    damage(only_file(tmp_path))
    capsys.readouterr()
    assert_holds(open_cache(source, folder=tmp_path), source.records)
    [line] = [line for line in capsys.readouterr().err.splitlines() if "cannot be used" in line]
    assert str(only_file(tmp_path)) in line and reason in line
    open_cache(source, folder=tmp_path)
    assert source.read == 2 and "cannot be used" not in capsys.readouterr().err


def test_any_flipped_byte_is_harmless_or_found(tmp_path):
    scans = make_scans(((5, 4),) * 2, layers=True)
    open_cache(FakeSource(scans), folder=tmp_path)
    path = only_file(tmp_path)
    content, found = path.read_bytes(), 0
    for at in range(0, len(content), 13):
        damaged = bytearray(content)
        damaged[at] ^= 0x41
        path.write_bytes(damaged)
        cache, problem = read_cache(path, FakeSource([]), None)
        found += problem is not None
        if problem is None:
            assert_holds(cache, scans)
            assert cache.scale_um == (3.87, 11.5, 123.0) and cache.notes == [
                "read to the end, 3 µm"
            ]
    assert found > 100


def test_checksum_sees_flips_swaps_and_shifts():
    pixels = np.random.default_rng(0).integers(
        0, 256, (3, 50, 100), np.uint8
    )  # 3 pages and a rest
    want = checksum(pixels)
    assert checksum(pixels.ravel()) == want == checksum(pixels.copy())
    for at in (0, 4095, 4096, 9001, 12287, 12288, 14999):
        for bit in (1, 128):
            damaged = pixels.copy()
            damaged.reshape(-1)[at] ^= bit
            assert checksum(damaged) != want
    pages = pixels.reshape(-1)
    swapped = np.concatenate((pages[4096:8192], pages[:4096], pages[8192:]))
    zeroed = np.concatenate((pages[:4096], np.zeros(4096, np.uint8), pages[8192:]))
    for damaged in (swapped, zeroed, np.roll(pages, 1), pages[:-1]):
        assert checksum(damaged) != want


def spoilt(**changes) -> list[BScan]:
    scans = make_scans(layers=True)
    scans[1] = dataclasses.replace(scans[1], name="bad_one", **changes)
    return scans


@pytest.mark.parametrize(
    ("scans", "message"),
    [
        (
            spoilt(fluid=np.full((12, 10), 7, np.uint8)),
            r"bad_one: fluid holds \[7\], expected only 0, 1 and 255",
        ),
        (
            spoilt(fluid=np.zeros((12, 9), np.uint8)),
            r"bad_one: fluid is uint8 \(12, 9\), expected uint8 \(12, 10\)",
        ),
        (spoilt(fluid=np.zeros((12, 10), bool)), r"bad_one: fluid is bool"),
        (spoilt(fluid=None), r"1 of 3 scans have no fluid labels \(bad_one"),
        (spoilt(image=np.zeros((12, 10), np.float32)), r"bad_one: image is float32"),
        (spoilt(image=np.zeros((12, 10, 2), np.uint8)), r"bad_one: image is uint8 \(12, 10, 2\)"),
        (
            spoilt(image=np.zeros((12, 10, 3), np.uint8)),
            "made by hand mixes grey and colour images",
        ),
        (
            spoilt(layers=np.zeros((7, 10), np.float32)),
            r"bad_one: layers are float32 \(7, 10\), expected float \(8, 10\)",
        ),
        (spoilt(layers=np.zeros((8, 10), np.int64)), r"bad_one: layers are int64"),
        ([], "no B-scans in made by hand"),
    ],
)
def test_bad_scans_are_refused(tmp_path, scans, message):
    with pytest.raises(InputError, match=message):
        open_cache(FakeSource(scans), folder=tmp_path)
    assert [f.suffix for f in tmp_path.iterdir()] == [".lock"]


def test_bad_size_is_refused(tmp_path):
    with pytest.raises(InputError, match="size 0"):
        open_cache(FakeSource(make_scans()), 0, tmp_path)


def test_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    source = FakeSource(make_scans())
    with pytest.raises(InputError, match="cannot write .*file.*set DME_CACHE"):
        open_cache(source, folder=tmp_path / "file")
    assert source.read == 0


def test_full_disk(tmp_path):
    source = FakeSource(make_scans(((200, 300),) * 3))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(
            InputError, match="cannot write .*native.h5: File too large; free the disk"
        ):
            open_cache(source, folder=tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [f.suffix for f in tmp_path.iterdir()] == [".lock"]
    assert_holds(open_cache(source, folder=tmp_path), source.records)


def python(code: str, *args) -> subprocess.Popen:
    here = Path(__file__).parent
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(here), str(here.parents[1])])}
    command = [sys.executable, "-c", code, *map(str, args)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)


def test_two_processes_build_once(tmp_path):
    code = """if True:
        import sys, time, zlib
        from pathlib import Path
        from test_cache import FakeSource, make_scans
        from dme.data.cache import open_cache

        class SlowSource(FakeSource):
            def scans(self):
                Path(sys.argv[1], f"read_by_{sys.argv[2]}").touch()
                for scan in super().scans():
                    time.sleep(0.2)
                    yield scan

        Path(sys.argv[1], f"ready_{sys.argv[2]}").touch()
        while not Path(sys.argv[1], "go").exists():
            time.sleep(0.005)
        cache = open_cache(SlowSource(make_scans()), 8, Path(sys.argv[1], "cache"))
        print(zlib.crc32(cache.images.tobytes() + cache.fluid.tobytes()), cache.names)
    """
    processes = [python(code, tmp_path, i) for i in range(2)]
    deadline = time.monotonic() + 60
    while len(list(tmp_path.glob("ready_*"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    (tmp_path / "go").touch()
    outputs = [process.communicate(timeout=60)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert outputs[0] == outputs[1] and "eye µ_2" in outputs[0]
    assert len(list(tmp_path.glob("read_by_*"))) == 1
    assert not list((tmp_path / "cache").glob("*.part"))
    assert_holds(open_cache(FakeSource(make_scans()), folder=tmp_path / "cache"), make_scans())


def test_killed_build_leaves_nothing_behind(tmp_path, capsys):
    code = """if True:
        import os, signal, sys, zlib
        from pathlib import Path
        from test_cache import FakeSource, make_scans
        from dme.data import cache, cache_file

        class Killer:
            calls = 0
            def crc32(self, data, start=0):
                self.calls += 1
                if self.calls == 11:
                    os.kill(os.getpid(), signal.SIGKILL)
                return zlib.crc32(data, start)

        cache_file.zlib = Killer()
        cache.open_cache(FakeSource(make_scans(((100, 300),) * 3)), folder=Path(sys.argv[1]))
    """
    process = python(code, tmp_path)
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    assert len(list(tmp_path.glob(".*.part"))) == 1 and not list(tmp_path.glob("*.h5"))
    source = FakeSource(make_scans(((100, 300),) * 3))
    assert_holds(open_cache(source, folder=tmp_path), source.records)
    only_file(tmp_path)
    assert "cannot be used" not in capsys.readouterr().err


def test_default_folder_is_dme_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DME_CACHE", str(tmp_path / "here"))
    open_cache(FakeSource(make_scans()))
    only_file(tmp_path / "here")
