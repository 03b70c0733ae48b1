"""Many scans: what one leaves, and that a thousand take no more memory than one."""

import tracemalloc

import numpy as np
import pytest
import torch
from helpers.knowing_networks import Bright
from helpers.scan_files import picture

from dme.report.batch import Work
from dme.report.inputs import list_items


def test_memory_stays_flat(tmp_path):
    """200 more scans of 0.13 MB (in all 25 MB, as much again for each step) leave no more than their rows."""
    image = picture(height=260, width=500)
    np.save(tmp_path / "one.npy", image)

    def peak_mb(count: int) -> float:
        for i in range(count):
            link = tmp_path / f"in{count}" / f"{i}.npy"
            link.parent.mkdir(exist_ok=True)
            link.symlink_to(tmp_path / "one.npy")
        items, _ = list_items([str(tmp_path / f"in{count}")])
        work = Work(tmp_path / "out", {"fluid": Bright()}, 0.5, False, None)
        fast = pytest.MonkeyPatch()
        fast.setattr("dme.report.batch.save_png", lambda path, picture, fast: None)
        found = torch.from_numpy(np.stack([image] * 2) / np.float32(255))
        fast.setattr("dme.report.batch.class_probabilities", lambda *_: found)
        tracemalloc.start()
        work.run(items)
        peak = tracemalloc.get_traced_memory()[1] / 2**20
        tracemalloc.stop()
        fast.undo()
        assert len(work.rows) == count
        return peak

    peak_mb(1)
    few, many = peak_mb(5), peak_mb(205)
    assert many - few < 1
