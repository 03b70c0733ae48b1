"""dme.data.cache: what comes back is what went in, whatever happens to the file or to whoever
writes it.
"""

import dataclasses
import hashlib
import os
import resource
import signal
import stat
import subprocess
import sys
import time
import zlib
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

from dme.bscan import BScan
from dme.common.errors import InputError
from dme.data import cache_file
from dme.data.cache import open_cache
from dme.data.cache_file import HASHES, checksum, checksum_of_all, read_cache
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


SCALE_UM = (3.87, 11.5, 123.0)


def make_scans(shapes=((12, 10),) * 3, fluid=True, layers=False, scale_um=SCALE_UM):
    """Two scans an eye, from position 10."""
    rng = np.random.default_rng(0)
    scans = []
    for i, shape in enumerate(shapes):
        height, width = shape
        scan = BScan(f"eye µ_{i}", rng.integers(0, 256, shape, np.uint8))
        scan.subject = i // 2 + 1
        scan.position = 10 + i
        scan.scale_um = scale_um
        if fluid:
            scan.fluid = rng.choice(np.array([0, 1, 255], np.uint8), shape)
        if layers:
            scan.layers = rng.uniform(0, height, (8, width)).astype(np.float32)
            scan.layers[:, :2] = np.nan
        scans.append(scan)
    return scans


def assert_holds(cache, scans: list[BScan]) -> None:
    """The cache holds these scans, pixel by pixel."""
    assert len(cache) == len(scans)
    assert cache.names == [scan.name for scan in scans]
    assert cache.subjects.dtype == cache.positions.dtype == np.int64
    assert cache.subjects.tolist() == [scan.subject for scan in scans]
    assert cache.positions.tolist() == [scan.position for scan in scans]
    assert_equal_arrays(cache.images, [scan.image for scan in scans])
    assert_equal_arrays(cache.fluid, [scan.fluid for scan in scans])
    assert_equal_arrays(cache.layers, [scan.layers for scan in scans])


def assert_equal_arrays(cached, expected: list[np.ndarray | None]) -> None:
    if expected[0] is None:
        assert cached is None
        return
    for array, expected_array in zip(cached, expected, strict=True):
        assert array.dtype == expected_array.dtype
        np.testing.assert_array_equal(array, expected_array)


def only_file(folder: Path) -> Path:
    """The one cache file; anything else but the lock is a leftover."""
    files = [file for file in folder.iterdir() if file.suffix != ".lock"]
    assert len(files) == 1, files
    return files[0]


# ---- what goes in comes out -------------------------------------------------------------------


def test_round_trip(tmp_path):
    source = FakeSource(make_scans(layers=True))
    built = open_cache(source, folder=tmp_path)
    opened = open_cache(source, folder=tmp_path)
    assert source.read == 1
    for cache in (built, opened):
        assert_holds(cache, source.records)
        assert cache.images.shape == cache.fluid.shape == (3, 12, 10)
        assert cache.layers.shape == (3, 8, 10)
        assert cache.scale_um == SCALE_UM
        assert cache.size is None
        assert cache.source_sha256 == SHA
        assert cache.kind == "fake" and cache.description == "made by hand"
        assert cache.notes == ["read to the end, 3 µm"]
    assert only_file(tmp_path).name == f"fake-{SHA[:12]}-native.h5"


def test_a_moved_source_uses_the_same_cache(tmp_path):
    source = FakeSource(make_scans())
    open_cache(source, folder=tmp_path)
    moved = dataclasses.replace(source, description="the same scans elsewhere")
    assert open_cache(moved, folder=tmp_path).description == moved.description
    assert source.read == moved.read == 1


def test_scans_of_different_sizes(tmp_path):
    shapes = ((12, 10), (12, 9), (7, 10))
    source = FakeSource(make_scans(shapes, layers=True, scale_um=None))
    open_cache(source, folder=tmp_path)
    cache = open_cache(source, folder=tmp_path)
    assert_holds(cache, source.records)
    for scans in (cache.images, cache.fluid, cache.layers):
        assert isinstance(scans, list)
    assert cache.scale_um is None


def test_unlabelled_set(tmp_path):
    source = FakeSource(make_scans(fluid=False))
    assert_holds(open_cache(source, folder=tmp_path), source.records)
    small = open_cache(source, 8, tmp_path)
    assert small.fluid is None
    assert small.images.shape == (3, 8, 8)


def test_missing_layers_and_scales_are_noted(tmp_path):
    scans = make_scans(layers=True)
    scans[1].layers = None
    scans[2].scale_um = (1.0, 2.0, 3.0)
    cache = open_cache(FakeSource(scans), folder=tmp_path)
    assert np.isnan(cache.layers[1]).all()
    assert not np.isnan(cache.layers[2]).all()
    assert cache.scale_um is None
    _, layers_note, scales_note = cache.notes
    assert "1 of 3 scans have no layers" in layers_note
    assert "2 different pixel scales" in scales_note


# ---- resized ----------------------------------------------------------------------------------


def bicubic(array, size):
    image = Image.fromarray(array).resize((size, size), Image.BICUBIC)
    return np.asarray(image)


def nearest(array, size):
    """As Pillow: the pixel below the centre of the target pixel."""
    height, width = array.shape
    rows = ((np.arange(size) + 0.5) * height / size).astype(int)
    columns = ((np.arange(size) + 0.5) * width / size).astype(int)
    return array[np.ix_(rows, columns)]


def test_resized_equals_pillow(tmp_path):
    scans = make_scans(((40, 60),) * 3)
    scans[0].fluid[5:25, 5:35] = 1
    scans[1].fluid[:, 45:] = 255
    source = FakeSource(scans)
    cache = open_cache(source, 16, tmp_path)
    for i, scan in enumerate(scans):
        np.testing.assert_array_equal(cache.images[i], bicubic(scan.image, 16))
        fluid = bicubic((scan.fluid == 1).astype(np.uint8), 16)
        unknown = nearest(scan.fluid, 16) == 255
        np.testing.assert_array_equal(cache.fluid[i], np.where(unknown, 255, fluid))
    assert set(np.unique(cache.fluid)) == {0, 1, 255}
    assert cache.scale_um == pytest.approx((3.87 * 40 / 16, 11.5 * 60 / 16, 123.0))
    assert cache.size == 16 and cache.layers is None

    again = open_cache(source, 16, tmp_path)
    np.testing.assert_array_equal(again.fluid, cache.fluid)
    assert source.read == 1
    assert len(list(tmp_path.glob("*.h5"))) == 2


def test_resized_from_different_sizes(tmp_path):
    cache = open_cache(FakeSource(make_scans(((12, 10), (9, 10)))), 8, tmp_path)
    assert cache.images.shape == cache.fluid.shape == (2, 8, 8)
    assert cache.scale_um is None and "scale unknown" in cache.notes[-1]


def test_real_256_is_the_study_set(real_data, tmp_path):
    folder = real_data / "chiu2015"
    cache = open_cache(open_source(folder), 256, tmp_path)
    assert cache.names == [f"img_{i:03d}" for i in range(110)]
    for i, name in enumerate(cache.names):
        image = np.asarray(Image.open(folder / "images" / f"{name}.png"))
        ids = np.asarray(Image.open(folder / "fluid" / f"{name}.png"))
        np.testing.assert_array_equal(cache.images[i], bicubic(image, 256))
        fluid = (ids > 0).astype(np.uint8)
        np.testing.assert_array_equal(cache.fluid[i], bicubic(fluid, 256))


# ---- damage -----------------------------------------------------------------------------------


def flip_pixel(path: Path) -> None:
    with h5py.File(path, "r") as file:
        place = file["fluid"].id.get_offset() + 17
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def set_attribute(key: str, value):
    def change(path: Path) -> None:
        with h5py.File(path, "r+") as file:
            file.attrs[key] = value

    return change


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def drop_images(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        del file["images"]


def write_foreign_hdf5(path: Path) -> None:
    path.unlink()
    with h5py.File(path, "w") as file:
        file["x"] = 1


@pytest.mark.parametrize(
    "damage, reason",
    [
        (truncate, "truncated"),
        (lambda path: path.write_bytes(b""), "signature not found"),
        (lambda path: path.write_text("not a cache, " * 400), "signature not found"),
        (write_foreign_hdf5, "format is None, expected 3"),
        (flip_pixel, "checksum of fluid differs"),
        (drop_images, "images"),
        (set_attribute("format", 0), "format is 0, expected 3"),
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
    lines = capsys.readouterr().err.splitlines()
    (line,) = [line for line in lines if "cannot be used" in line]
    assert str(only_file(tmp_path)) in line and reason in line

    open_cache(source, folder=tmp_path)
    assert source.read == 2
    assert "cannot be used" not in capsys.readouterr().err


def test_any_flipped_byte_is_harmless_or_found(tmp_path):
    scans = make_scans(((5, 4),) * 2, layers=True)
    open_cache(FakeSource(scans), folder=tmp_path)
    path = only_file(tmp_path)
    content = path.read_bytes()
    problems = 0
    for place in range(0, len(content), 13):
        damaged = bytearray(content)
        damaged[place] ^= 0x41
        path.write_bytes(damaged)
        cache, problem = read_cache(path, FakeSource([]), None)
        if problem is None:
            assert_holds(cache, scans)
            assert cache.scale_um == SCALE_UM
            assert cache.notes == ["read to the end, 3 µm"]
        else:
            problems += 1
    assert problems > 100


@pytest.mark.parametrize("digest", HASHES.values(), ids=HASHES)
def test_checksum_sees_flips_swaps_and_shifts(digest):
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (3, 50, 100), np.uint8)  # 3 pages and a rest
    expected = checksum(pixels, digest)
    assert checksum(pixels.ravel(), digest) == expected == checksum(pixels.copy(), digest)
    for place in (0, 4095, 4096, 9001, 12287, 12288, 14999):
        for bit in (1, 128):
            damaged = pixels.copy()
            damaged.reshape(-1)[place] ^= bit
            assert checksum(damaged, digest) != expected
    flat = pixels.reshape(-1)
    first, second, rest = np.split(flat, [4096, 8192])
    swapped = np.concatenate((second, first, rest))
    zeroed = np.concatenate((first, np.zeros_like(second), rest))
    words = first.view("<u8")
    backwards = np.concatenate((words[::-1].copy().view(np.uint8), second, rest))
    sectors = np.concatenate((first[512:1024], first[:512], flat[1024:]))
    for damaged in (swapped, zeroed, backwards, sectors, np.roll(flat, 1), flat[:-1]):
        assert checksum(damaged, digest) != expected


@pytest.mark.parametrize("digest", HASHES.values(), ids=HASHES)
def test_checksum_sees_flips_that_cancel_in_a_sum(digest):
    rng = np.random.default_rng(0)
    page = rng.integers(0, 2**63, 512, np.int64).astype("<u8")
    expected = checksum(page, digest)
    seen = 0
    for bit in range(64):
        mask = np.uint64(1 << bit)
        ones = np.flatnonzero(page & mask)
        zeros = np.flatnonzero(~page & mask)
        if len(ones) and len(zeros):
            damaged = page.copy()
            damaged[[ones[0], zeros[0]]] ^= mask
            assert damaged.sum(dtype=np.uint64) == page.sum(dtype=np.uint64)
            assert checksum(damaged, digest) != expected
            seen += 1
    assert seen > 60


def test_a_file_whose_hash_is_not_there_is_built_again(tmp_path, capsys, monkeypatch):
    """Written with xxhash, read without it; and back."""
    source = FakeSource(make_scans())
    with monkeypatch.context() as patch:
        patch.setattr(cache_file, "HASHES", HASHES | {"fast": zlib.adler32})
        patch.setattr(cache_file, "HASH", "fast")
        open_cache(source, folder=tmp_path)
        open_cache(source, folder=tmp_path)
        assert source.read == 1
    with monkeypatch.context() as patch:
        patch.setattr(cache_file, "HASHES", {"crc32": zlib.crc32})
        patch.setattr(cache_file, "HASH", "crc32")
        capsys.readouterr()
        assert_holds(open_cache(source, folder=tmp_path), source.records)
        assert "its hash fast is none of crc32; pip install xxhash" in capsys.readouterr().err
    assert_holds(open_cache(source, folder=tmp_path), source.records)
    assert source.read == 2


# ---- content that no set of scans has, under right checksums -----------------------------------


def rewrite(change):
    """Damage: `change` of the datasets and attributes, with the checksums that go with it."""

    def damage(path: Path) -> None:
        with h5py.File(path, "r+") as file:
            arrays = {key: file[key][...] for key in file}
            attributes = {key: value for key, value in file.attrs.items() if key != "checksum"}
            change(arrays, attributes)
            checksums = {key: checksum(array) for key, array in arrays.items()}
            for key in list(file):
                del file[key]
            for key, array in arrays.items():
                file[key] = array
                file[key].attrs["checksum"] = np.uint64(checksums[key])
            for key, value in attributes.items():
                file.attrs[key] = value
            file.attrs["checksum"] = np.uint64(checksum_of_all(attributes, checksums))

    return damage


def replaced(key, function):
    def change(arrays, attributes):
        place = arrays if key in arrays else attributes
        place[key] = function(place[key])

    return rewrite(change)


def with_link(path: Path) -> None:
    """Pixels that lie in another file."""
    with h5py.File(path.with_name("other.hdf5"), "w") as other:
        with h5py.File(path, "r+") as file:
            other["images"] = file["images"][...]
            other["images"].attrs["checksum"] = file["images"].attrs["checksum"]
            del file["images"]
            file["images"] = h5py.ExternalLink(other.filename, "images")


def with_raw_storage(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        images = file["images"][...]
        number = file["images"].attrs["checksum"]
        del file["images"]
        raw = path.with_name("raw")
        images.tofile(raw)
        place = [(str(raw), 0, images.size)]
        file.create_dataset("images", images.shape, images.dtype, external=place)
        file["images"].attrs["checksum"] = number


def huge(path: Path) -> None:
    """A terabyte that nobody wrote."""
    with h5py.File(path, "r+") as file:
        del file["images"]
        file.create_dataset("images", (10**12,), "u1", chunks=(1 << 20,))
        file["images"].attrs["checksum"] = 0


def variable_text(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        del file["names"]
        file["names"] = ["a", "b", "c"]
        file["names"].attrs["checksum"] = 0


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (replaced("shapes", lambda a: np.arange(5)), "shapes are (5,)"),
        (replaced("shapes", lambda a: np.zeros((0, 2), np.int64)), "shapes are (0, 2)"),
        (replaced("shapes", lambda a: a - a), "above 0"),
        (replaced("shapes", lambda a: a * 2**40), "images are"),
        (replaced("shapes", lambda a: a[:, [0, 1, 1]]), "other than 3 channels"),
        (replaced("shapes", lambda a: a.astype(np.float64)), "shapes is float64"),
        (replaced("names", lambda a: a[:2]), "names are (2,), expected (3,)"),
        (replaced("names", lambda a: np.arange(3)), "names is int64"),
        (replaced("subjects", lambda a: a[:2]), "subjects are (2,), expected (3,)"),
        (replaced("positions", lambda a: a[:, None]), "positions are (3, 1), expected (3,)"),
        (replaced("positions", lambda a: a.astype(np.int32)), "positions is int32"),
        (replaced("images", lambda a: a[1:]), "images are (359,), expected (360,)"),
        (replaced("images", lambda a: a.astype(np.int16)), "images is int16"),
        (replaced("fluid", lambda a: a * 0 + np.uint8(77)), "fluid holds other than 0, 1 and 255"),
        (replaced("fluid", lambda a: a * 0 + np.uint8(2)), "fluid holds other than 0, 1 and 255"),
        (replaced("fluid", lambda a: a * 0 + np.uint8(254)), "fluid holds other than 0, 1"),
        (replaced("fluid", lambda a: a[1:]), "fluid are (359,), expected (360,)"),
        (replaced("layers", lambda a: a[1:]), "layers are"),
        (replaced("layers", lambda a: a.astype(np.float64)), "layers is float64"),
        (replaced("scale_um", lambda a: a[:1]), "scale_um is"),
        (replaced("scale_um", lambda a: a * np.nan), "scale_um is"),
        (replaced("scale_um", lambda a: -a), "scale_um is"),
        (rewrite(lambda arrays, _: arrays.update(extra=np.zeros(3))), "unknown dataset extra"),
        (set_attribute("scale_um", (1.0, 1.0, 1.0)), "checksum of the attributes differs"),
        (set_attribute("kind", np.bytes_("duke")), "checksum of the attributes differs"),
        (with_link, "images is a link"),
        (with_raw_storage, "images does not lie in the file as it was written"),
        (huge, "images does not lie in the file as it was written"),
        (variable_text, "names is object"),
    ],
)
def test_wrong_content_is_reported_and_built_again(tmp_path, capsys, damage, reason):
    source = FakeSource(make_scans(layers=True))
    open_cache(source, folder=tmp_path)
    path = only_file(tmp_path)
    damage(path)
    capsys.readouterr()
    assert_holds(open_cache(source, folder=tmp_path), source.records)
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "cannot be used" in line]
    assert reason in line, line
    assert source.read == 2


def test_rewritten_without_change_is_used(tmp_path):
    source = FakeSource(make_scans(layers=True))
    open_cache(source, folder=tmp_path)
    rewrite(lambda arrays, attributes: None)(only_file(tmp_path))
    assert_holds(open_cache(source, folder=tmp_path), source.records)
    assert source.read == 1


def test_a_resized_set_has_its_size_and_no_layers(tmp_path, capsys):
    source = FakeSource(make_scans())
    open_cache(source, 8, tmp_path)
    (path,) = tmp_path.glob("*-8.h5")

    def add_layers(arrays, attributes):
        arrays["layers"] = np.zeros(3 * 8 * 8, np.float32)

    for damage, reason in (
        (rewrite(add_layers), "layers of a resized set"),
        (replaced("shapes", lambda a: a * [[2, 1]]), "shapes are not 8 x 8"),
    ):
        damage(path)
        cache, problem = read_cache(path, source, 8)
        assert cache is None
        assert reason in problem
        open_cache(source, 8, tmp_path)


def test_names_that_are_not_utf_8(tmp_path):
    scans = make_scans()
    scans[1].name = b"eye \xff".decode(errors="surrogateescape")
    source = FakeSource(scans)
    open_cache(source, folder=tmp_path)
    assert_holds(open_cache(source, folder=tmp_path), scans)
    assert source.read == 1


# ---- whose scans they are ----------------------------------------------------------------------


def test_only_their_owner_may_read_them(tmp_path):
    for size in (None, 8):
        open_cache(FakeSource(make_scans()), size, tmp_path / "new" / "cache")
    folder = tmp_path / "new" / "cache"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    files = list(folder.glob("*.h5"))
    assert len(files) == 2
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}


def test_a_folder_that_is_there_keeps_its_mode(tmp_path):
    tmp_path.chmod(0o755)
    open_cache(FakeSource(make_scans()), folder=tmp_path)
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o755
    assert stat.S_IMODE(only_file(tmp_path).stat().st_mode) == 0o600


# ---- what is refused --------------------------------------------------------------------------


def blank(shape, dtype=np.uint8):
    return np.zeros(shape, dtype)


@pytest.mark.parametrize(
    "changes, message",
    [
        (
            {"fluid": blank((12, 10)) + np.uint8(7)},
            r"bad_one: fluid holds \[7\], expected only 0, 1 and 255",
        ),
        (
            {"fluid": blank((12, 9))},
            r"bad_one: fluid is uint8 \(12, 9\), expected uint8 \(12, 10\)",
        ),
        ({"fluid": blank((12, 10), bool)}, r"bad_one: fluid is bool"),
        ({"fluid": None}, r"1 of 3 scans have no fluid labels \(bad_one"),
        ({"image": blank((12, 10), np.float32)}, r"bad_one: image is float32"),
        ({"image": blank((12, 10, 2))}, r"bad_one: image is uint8 \(12, 10, 2\)"),
        ({"image": blank((12, 10, 3))}, "made by hand mixes grey and colour images"),
        (
            {"layers": blank((7, 10), np.float32)},
            r"bad_one: layers are float32 \(7, 10\), expected float \(8, 10\)",
        ),
        ({"layers": blank((8, 10), np.int64)}, r"bad_one: layers are int64"),
    ],
)
def test_bad_scans_are_refused(tmp_path, changes, message):
    scans = make_scans(layers=True)
    scans[1] = dataclasses.replace(scans[1], name="bad_one", **changes)
    with pytest.raises(InputError, match=message):
        open_cache(FakeSource(scans), folder=tmp_path)
    assert not list(tmp_path.iterdir())


def test_an_empty_set_is_refused(tmp_path):
    with pytest.raises(InputError, match="no B-scans in made by hand"):
        open_cache(FakeSource([]), folder=tmp_path)
    assert not list(tmp_path.iterdir())


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
    _, hard = limits
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        message = "cannot write .*native.h5: File too large; free the disk"
        with pytest.raises(InputError, match=message):
            open_cache(source, folder=tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not list(tmp_path.iterdir())
    assert_holds(open_cache(source, folder=tmp_path), source.records)


# ---- several processes ------------------------------------------------------------------------


def python(code: str, *args) -> subprocess.Popen:
    """A process that runs the code with these arguments, next to this file."""
    here = Path(__file__).parent
    paths = os.pathsep.join([str(here), str(here.parents[1])])
    environment = {**os.environ, "PYTHONPATH": paths}
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
    while time.monotonic() < deadline:
        if len(list(tmp_path.glob("ready_*"))) == 2:
            break
        time.sleep(0.01)
    (tmp_path / "go").touch()
    outputs = [process.communicate(timeout=60)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert outputs[0] == outputs[1]
    assert "eye µ_2" in outputs[0]
    assert len(list(tmp_path.glob("read_by_*"))) == 1
    assert not list((tmp_path / "cache").glob("*.part"))
    cache = open_cache(FakeSource(make_scans()), folder=tmp_path / "cache")
    assert_holds(cache, make_scans())


def test_killed_build_leaves_nothing_behind(tmp_path, capsys):
    code = """if True:
        import os, signal, sys
        from pathlib import Path
        import h5py
        from test_cache import FakeSource, make_scans
        from dme.data import cache

        create = h5py.Group.create_dataset

        def killer(file, name, data):
            if name == "images":
                os.kill(os.getpid(), signal.SIGKILL)
            return create(file, name, data=data)

        h5py.Group.create_dataset = killer
        cache.open_cache(FakeSource(make_scans(((100, 300),) * 3)), folder=Path(sys.argv[1]))
    """
    process = python(code, tmp_path)
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    assert len(list(tmp_path.glob(".*.part"))) == 1
    assert not list(tmp_path.glob("*.h5"))
    source = FakeSource(make_scans(((100, 300),) * 3))
    assert_holds(open_cache(source, folder=tmp_path), source.records)
    only_file(tmp_path)
    assert "cannot be used" not in capsys.readouterr().err


def test_default_folder_is_dme_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DME_CACHE", str(tmp_path / "here"))
    open_cache(FakeSource(make_scans()))
    only_file(tmp_path / "here")
