"""One network for layers and fluid: the scans it learns from, and the table from made-up runs."""

import json

import numpy as np
import pytest
from helpers.finetuning import make_folder
from helpers.scripts import exit_code, load_script, written_table

from dme.common.errors import InputError
from dme.data.opening import open_source
from dme.nets.checkpoint import save_model
from dme.nets.segmenter import build_model, set_classes

INDEX = "name,subject,bscan\n" + "".join(f"scan{i:02},{1 + i},{i}\n" for i in range(4))


@pytest.fixture
def script():
    return load_script("one_network")


@pytest.fixture
def settings(script, tmp_path):
    """Two sets of four scans of four eyes, and a tiny teacher."""
    from dme.common.tasks import LAYER_CLASSES

    duke = make_folder(tmp_path / "duke", wet=(1, 1, 1, 1), index=INDEX)
    healthy = make_folder(tmp_path / "healthy", wet=(0, 0, 0, 0), index=INDEX)
    (healthy / "boundaries").mkdir()
    for i in range(4):
        rows = np.repeat(np.linspace(20, 70, 8)[:, None] + i, 128, 1).astype(np.float32)
        np.save(healthy / "boundaries" / f"scan{i:02}.npy", rows)
    teacher = build_model(width=2, num_classes=9, head="fcn", aux=False)
    set_classes(teacher, LAYER_CLASSES)
    teacher.preprocess |= {"size": "native"}
    save_model(teacher, tmp_path / "teacher.pt")
    return script.Settings(duke, healthy, tmp_path / "teacher.pt")


def test_scans_of_both_sets_with_fluid_and_layers(script, settings, tmp_path):
    script.prepare_scans(settings, tmp_path / "scans")
    scans = {scan.name: scan for scan in open_source(str(tmp_path / "scans")).scans()}
    assert len(scans) == 8
    # eye 4 of each set is scored; octlayers' eyes are numbered after Duke's
    validated = sorted(name for name in scans if name.startswith("val_"))
    assert validated == ["val_duke_scan03", "val_octlayers_scan03"]
    assert scans["train_octlayers_scan00"].subject == 11
    assert not scans["val_octlayers_scan03"].fluid.any()
    np.testing.assert_allclose(scans["train_octlayers_scan01"].layers[0], 21)
    truth = next(masks(settings.duke, "scan01"))
    np.testing.assert_array_equal(scans["train_duke_scan01"].fluid == 1, truth == 1)


def test_scans_of_another_teacher_are_refused(script, settings, tmp_path):
    folder = tmp_path / "scans"
    script.prepare_scans(settings, folder)
    index = folder / "index.csv"
    before = index.stat().st_mtime_ns
    script.prepare_scans(settings, folder)  # which are there
    assert index.stat().st_mtime_ns == before

    teacher = settings.teacher.read_bytes()
    settings.teacher.write_bytes(b"another")
    told = "scans was made from another teacher .sha256 .*; expected .*: give that one, delete"
    with pytest.raises(InputError, match=told) as refused:
        script.prepare_scans(settings, folder)
    assert "\n" not in str(refused.value) and index.stat().st_mtime_ns == before
    (folder / script.MADE_FROM).unlink()  # as an earlier version left it
    with pytest.raises(InputError, match="another duke .sha256 unknown; expected"):
        script.prepare_scans(settings, folder)
    # an interrupted one is written again
    index.unlink()
    settings.teacher.write_bytes(teacher)
    script.prepare_scans(settings, folder)
    assert index.exists() and (folder / script.MADE_FROM).exists()


def masks(folder, name):
    return (scan.fluid for scan in open_source(str(folder)).scans() if scan.name == name)


def test_each_set_is_scored_for_what_it_knows(script, tmp_path):
    counts = np.zeros((3, 10, 10), int)
    counts[0, 9, 9], counts[0, 3, 9], counts[0, 9, 0] = 6, 2, 2  # Duke's
    counts[2, 4, 9] = 100  # found in a healthy scan: not Duke's
    folder = tmp_path / "runs"
    folder.mkdir()
    words = "--recipe fluid --size um --match-brightness --scale 3.87,11.33 --synthetic 20"
    arguments = f"{words} --task layers+fluid --split folders --amp off --seed 0".split()
    result = {
        "arguments": arguments,
        "data_kind": "folder",
        "data_sha256": "a",
        "scans": ["val_duke_a", "val_octlayers_b", "val_octlayers_c"],
        "counts_per_scan": {"native": counts.tolist()},
        "boundary_errors_px_per_scan": [[50.0] * 9, [1.0] * 9, [2.0] * 9],
    }
    (folder / "800-steps.json").write_text(json.dumps(result))
    text = written_table(script, tmp_path, "--print", "--amp", "off")
    assert f"| one, 800 steps | {12 / 16:.4f} | 1.500 |" in text
    assert "| two networks | 0.6752 | " in text


def test_what_is_missing_is_said(script, tmp_path, capsys):
    assert exit_code(script, "--out", tmp_path) == 2
    assert "duke is None; expected what --help says of --duke" in capsys.readouterr().err
