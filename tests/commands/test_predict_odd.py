"""`predict` on pictures that are no B-scans, or not as they should be."""

import numpy as np
from helpers.scan_files import save

from dme.data.phantom import phantom_bscan
from dme.retina.recognise import COLOURS, INVERTED, NOISE_ONLY, UPSIDE_DOWN


def save_mixed(folder):
    """A scan, the same upside down, inverted and in colours, and noise."""
    scan = phantom_bscan(5, 248, 384).image
    red = np.stack([scan, 255 - scan, scan // 2], axis=-1)
    noise = np.random.default_rng(0).integers(0, 120, scan.shape).astype(np.uint8)
    save(folder / "scan.png", scan)
    save(folder / "turned.png", scan[::-1])
    save(folder / "inverted.png", 255 - scan)
    save(folder / "coloured.png", red)
    save(folder / "noise.png", noise)
    save(folder / "inverted_array.npy", 255 - scan)
    return folder


def test_what_is_no_scan_is_refused_and_the_rest_goes_on(predict, tmp_path):
    done = predict(save_mixed(tmp_path / "in"), odd=True)
    assert done.code == 1
    rows = {row["scan"]: row["doubt"] for row in done.table()}
    assert rows == {"scan": "", "turned": str(UPSIDE_DOWN)}
    skipped = {
        fault["source"].rsplit("/", 1)[-1]: fault["reason"] for fault in done.results()["skipped"]
    }
    way_out = "; or go on with --force"
    assert skipped == {
        "inverted.png": f"{INVERTED}{way_out}",
        "coloured.png": f"{COLOURS}{way_out}",
        "noise.png": f"{NOISE_ONLY}{way_out}",
        "inverted_array.npy": f"{INVERTED}{way_out}",
    }
    assert "1 of 2 scans doubtful: it seems to be upside down" in done.printed
    assert INVERTED.seen in done.page()


def test_forced_it_is_predicted_and_doubtful(predict, tmp_path):
    done = predict(save_mixed(tmp_path / "in"), "--force", odd=True)
    assert done.code == 0
    rows = {row["scan"]: row["doubt"] for row in done.table()}
    assert len(rows) == 6
    assert not rows["scan"]
    assert rows["inverted"].startswith(str(INVERTED))
    assert rows["coloured"].startswith(str(COLOURS))
    assert rows["noise"].startswith(str(NOISE_ONLY))
    assert done.results()["settings"]["force"] is True
