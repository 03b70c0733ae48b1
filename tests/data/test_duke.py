"""Duke's set is recognised by subjects, positions and sizes."""

import shutil
from pathlib import Path

import numpy as np
from helpers.scanfolder import read_scans, save

from dme.data.duke import DUKE_ANNOTATED, DUKE_SCALE_UM
from dme.data.opening import open_source


def fake_duke(root: Path, height: int = 496) -> Path:
    """110 blank images with the published subjects and positions."""
    blank = save(root / "blank.png", np.zeros((height, 768), np.uint8))
    (root / "images").mkdir()
    lines = ["name,subject,bscan"]
    for subject, position in DUKE_ANNOTATED:
        name = f"s{subject}b{position}"
        shutil.copy(blank, root / "images" / f"{name}.png")
        lines.append(f"{name},{subject},{position}")
    (root / "index.csv").write_text("\n".join(lines) + "\n")
    return root


def scales(folder: Path) -> set:
    return {scan.scale_um for scan in read_scans(folder)}


def test_a_folder_is_recognised_by_positions_and_size(tmp_path):
    folder = fake_duke(tmp_path / "duke")
    source = open_source(folder)
    assert {scan.scale_um for scan in source.scans()} == {DUKE_SCALE_UM}
    (note,) = [note for note in source.notes if "recognised" in note]
    assert "Duke 2015_BOE_Chiu" in note

    assert scales(fake_duke(tmp_path / "other", height=256)) == {None}
    index = folder / "index.csv"
    index.write_text(index.read_text().replace(",4,6\n", ",4,7\n"))
    assert scales(folder) == {None}
