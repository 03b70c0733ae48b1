"""The archive for `reproduce`: networks fed from it see what they see of the original sets."""

import zipfile

import numpy as np
import pytest
from helpers.dukefolder import make_duke
from helpers.hrffolder import make_hrf
from helpers.scripts import call_main, exit_code, load_script

import dme.data.hrf
from dme.data.cache import open_cache
from dme.data.hrf import open_hrf
from dme.data.opening import open_source
from dme.data.splits import split_indices


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    """Made-up scans and photographs, larger than what is packed."""
    folder = tmp_path_factory.mktemp("sets")
    return make_duke(folder / "duke", side=320), make_hrf(folder / "hrf", 256, 384)


@pytest.fixture
def pack(tmp_path):
    """pack(scans, photographs) -> the script, and its arguments."""

    def make(scans, photographs):
        out = tmp_path / "new" / "data.zip"
        words = ["--data", scans, "--hrf", photographs, "--out", out]
        return load_script("pack_data"), words, out

    return make


def test_networks_see_the_same(sets, pack, tmp_path, capsys, monkeypatch):
    duke, hrf = sets
    monkeypatch.setattr(
        dme.data.hrf, "SIZE", (384, 256)
    )  # of these: at half of it nothing is reduced
    script, words, out = pack(duke, hrf)
    call_main(script, *words)
    assert "110 scans and masks of 256 x 256: bit for bit" in capsys.readouterr().out
    with zipfile.ZipFile(out) as archive:
        assert archive.testzip() is None
        archive.extractall(tmp_path / "packed")

    before, after = (
        open_cache(open_source(path), 256) for path in (duke, tmp_path / "packed" / "chiu2015")
    )
    assert after.names == before.names and len(after) == 110
    assert (after.subjects == before.subjects).all()
    assert (after.positions == before.positions).all()
    assert before.images.shape == (110, 256, 256) and before.fluid.any()
    assert (after.images == before.images).all() and (after.fluid == before.fluid).all()
    for mine, theirs in zip(
        split_indices(after, "paper", 0), split_indices(before, "paper", 0), strict=True
    ):
        assert list(mine) == list(theirs)

    before, after = (
        open_cache(open_hrf(path, 0.5)) for path in (hrf, tmp_path / "packed" / "hrf")
    )
    assert after.names == before.names and before.images.shape == (45, 128, 192, 3)
    assert (after.fluid == before.fluid).all() and before.fluid.any()
    distance = np.abs(after.images.astype(float) - before.images)
    assert 0 < distance.mean() < 2 and np.percentile(distance, 99) < 20


def test_an_archive_that_is_too_large_is_reported(sets, pack, monkeypatch, capsys):
    script, words, out = pack(*sets)
    monkeypatch.setattr(script, "LIMIT_MIB", 0.01)
    assert exit_code(script, *words) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()[-1:]
    assert line.startswith(f"error: {out} has ") and "are these the study's sets?" in line


def test_scans_without_masks_are_refused(sets, pack, tmp_path, capsys):
    duke, hrf = sets
    (tmp_path / "scans").mkdir()
    (tmp_path / "scans" / "images").symlink_to(duke / "images")
    script, words, out = pack(tmp_path / "scans", hrf)
    assert exit_code(script, *words) == 2
    assert "have no fluid masks, which the study needs" in capsys.readouterr().err
    assert not out.exists()


def test_missing_photographs(sets, pack, tmp_path, capsys):
    script, words, out = pack(sets[0], tmp_path / "nowhere")
    assert exit_code(script, *words) == 2
    assert "no images/ beside vessels/ or manual1/" in capsys.readouterr().err
    assert not out.exists()


def test_what_is_there_is_not_replaced(sets, pack, capsys):
    script, words, out = pack(*sets)
    out.parent.mkdir()
    out.write_text("mine")
    assert exit_code(script, *words) == 2
    assert f"{out} is there already: move it away" in capsys.readouterr().err
    assert out.read_text() == "mine"
