"""Nothing that a device's file says of its patient, and no path, stands in any result."""

import shutil
from pathlib import Path

import pytest
from helpers.vendor_files import PLANTED, raster, write_vol, write_xml

from dme.data.volume_files import open_volume
from dme.report.privacy import Privacy

WRITERS = {
    "vol": lambda folder: write_vol(folder / "a.vol", raster()),
    "xml": lambda folder: write_xml(folder / "a", raster()),
}


def everything(folder: Path) -> str:
    """Names and content of all files below a folder, as one text."""
    texts = []
    for path in sorted(folder.rglob("*")):
        texts.append(path.name)
        if path.is_file():
            texts.append(path.read_bytes().decode("latin-1"))
    return "\n".join(texts)


def planted_folder(root: Path, kind: str) -> Path:
    """A patient's folder, whose name and whose file's name hold what is in the file."""
    folder = root / f"Study-{PLANTED['patient']}" / "20190506"
    folder.mkdir(parents=True)
    path = WRITERS[kind](folder)
    name = f"{PLANTED['name']}{PLANTED['visit'].title()}_14-27-39_{path.name}"
    path.rename(path.with_name(name))
    if kind == "xml":
        shutil.copy(path.parent / "B1.tif", path.parent / f"{PLANTED['patient']}-other.tif")
    return folder.parent


@pytest.mark.parametrize("kind", WRITERS)
def test_no_output_holds_what_is_private(predict, tmp_path, kind):
    done = predict(planted_folder(tmp_path, kind))
    assert done.code == 0 and len(done.table()) == 4
    assert {row["volume"] for row in done.table()} == {"volume"}
    assert done.table()[0]["source"] == f"volume.{kind}"
    text = everything(done.out)
    hidden = [
        PLANTED["patient"],
        PLANTED["visit"],
        PLANTED["birth"],
        PLANTED["exam"],
        PLANTED["time"],
    ]
    hidden += [
        "20190506",
        "06.05.2019",
        "Visit4711",
        "14-27-39",
        str(tmp_path),
        str(Path.home()),
    ]
    for planted in hidden:
        assert planted not in text, planted
    if kind == "xml":  # a .vol has no name
        assert PLANTED["name"] not in text


def test_what_is_private_is_kept_when_asked_for(predict, tmp_path):
    folder = planted_folder(tmp_path, "xml")
    done = predict(folder, "--keep-identifiers")
    assert PLANTED["name"] in done.table()[0]["volume"]
    assert str(folder) in everything(done.out)
    done = predict(folder, "--keep-dates", out=tmp_path / "dated")
    (volume,) = done.results()["volumes"]
    assert volume["date"] == PLANTED["exam"]
    assert PLANTED["patient"] not in everything(done.out)


def test_texts_are_found_in_names_however_they_are_written(tmp_path):
    record = open_volume(write_xml(tmp_path / "a", raster()))
    privacy = Privacy()
    for name in (
        "planteauOD",
        "x_PLANTEAU_2",
        "PATNUM-77",
        "06-05-2019",
        "03021950",
        "190VISIT4711",
        "a_142739",
    ):
        assert privacy.hides(name, record), name
    for name in ("volume", "OD_2020-01-01", "plant"):
        assert not privacy.hides(name, record), name
    assert privacy.shown(record, tmp_path, "export") == "a/export.xml"
    told = privacy.text("the file of Planteau, PATNUM77 (planteau's): implanteaux")
    assert told == "the file of [removed], [removed] ([removed]'s): implanteaux"
    assert not Privacy(keep_identifiers=True).hides("planteau", record)
    assert not Privacy(keep_dates=True).hides("2019-05-06", record)
