"""Folders as the MIRAGE benchmark keeps them, SYNTHETIC ones."""

import json

import numpy as np
import pytest
from helpers.scanfolder import EMPTY, GREY, WET, read_scans, refused, save

from dme.common.errors import InputError
from dme.data.cache import open_cache
from dme.data.opening import open_source
from dme.data.splits import split_indices
from dme.report.inputs import list_items

CLASSES = {"0": (0, "Elsewhere"), "1": (80, "RNFL"), "2": (160, "IRF"), "3": (255, "Choroid")}


def write_info(root, classes=CLASSES) -> None:
    content = {key: {"value": value, "label": label} for key, (value, label) in classes.items()}
    (root / "INFO.json").write_text(json.dumps(content))


def add(folder, name, mask=None) -> None:
    save(folder / "bscan" / f"{name}.png", GREY)
    if mask is not None:
        save(folder / "semseg" / f"{name}.png", mask)


@pytest.fixture
def benchmark(tmp_path):
    """A set in parts, whose test part nobody may see the truth of."""
    wet = WET * 160
    wet[0] = 255
    wet[3] = 80
    for name, mask in (("a", wet), ("b", wet), ("c", EMPTY)):
        add(tmp_path / "train", name, mask)
    add(tmp_path / "val", "a", wet)
    add(tmp_path / "test", "d")
    write_info(tmp_path)
    return tmp_path


def test_classes_are_what_the_list_says(benchmark):
    source = open_source(benchmark)
    scans = {scan.name: scan.fluid for scan in source.scans()}
    assert list(scans) == ["train_a", "train_b", "train_c", "val_a"]
    assert np.array_equal(scans["train_a"], WET) and not scans["train_c"].any()
    assert "masks: fluid is 160 (IRF), as INFO.json says, all else background" in source.notes
    assert "laid out as the MIRAGE benchmark; without semseg/, left out: test" in source.notes


def test_parts_are_the_split(benchmark):
    add(benchmark / "test", "e", EMPTY)
    (benchmark / "test" / "bscan" / "d.png").unlink()
    cache = open_cache(open_source(benchmark))
    training, validation = split_indices(cache, "folders")
    assert [cache.names[i] for i in training] == ["train_a", "train_b", "train_c"]
    assert [cache.names[i] for i in validation] == ["val_a"]
    cache.names[0] = "other"
    with pytest.raises(InputError, match="split folders: names that begin with other, expected"):
        split_indices(cache, "folders")


def test_one_folder_alone(tmp_path):
    add(tmp_path, "a", WET * 160)
    add(tmp_path, "b", EMPTY)
    write_info(tmp_path)
    assert [scan.name for scan in read_scans(tmp_path)] == ["a", "b"]
    assert open_source(tmp_path, fluid_value=(0,)).sha256 != open_source(tmp_path).sha256
    before = open_source(tmp_path).sha256
    write_info(tmp_path, CLASSES | {"2": (160, "SRF")})
    assert open_source(tmp_path).sha256 != before


def test_lists_that_say_nothing_are_refused(tmp_path):
    add(tmp_path, "a", WET * 160)
    refused(tmp_path, "INFO.json: missing")
    write_info(tmp_path, {"0": (0, "Elsewhere"), "1": (160, "RNFL")})
    refused(tmp_path, "no class is fluid: 0 Elsewhere, 160 RNFL; say it by `fluid_value`")
    write_info(tmp_path, {"0": (0, "Elsewhere"), "1": (161, "IRF")})
    refused(tmp_path, "masks hold 160, INFO.json names 0 Elsewhere, 161 IRF")
    write_info(tmp_path, {"0": (0, "Elsewhere"), "1": (1 << 20, "IRF")})
    refused(tmp_path, "values 0, 1048576, expected 0 to 255")
    for text in ("[]", "{", '{"0": 1}', '{"0": {"value": "x", "label": "IRF"}}'):
        (tmp_path / "INFO.json").write_text(text)
        refused(tmp_path, "INFO.json: not as expected")


def test_predict_takes_the_images_alone(benchmark):
    items, faults = list_items([str(benchmark)])
    names = [scan.name for item in items for scan in item.scans(set())]
    assert sorted(names) == ["test_d", "train_a", "train_b", "train_c", "val_a"] and not faults
