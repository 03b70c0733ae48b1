"""Files of a scan for the page: they hold what the networks found and what graders marked."""

import base64
import json
import zlib
from pathlib import Path

import numpy as np
from helpers.scan_files import picture, save
from PIL import Image

SHAPE = (40, 60)


def values_of(path: Path) -> dict[str, np.ndarray]:
    """Arrays uint8 (H, W) of the script of a scan."""
    text = path.read_text(encoding="ascii").removeprefix("dme.receive(").removesuffix(");\n")
    record = json.loads(text)
    assert record.pop("name") == path.stem
    stored = {key: zlib.decompress(base64.b64decode(packed)) for key, packed in record.items()}
    return {key: np.frombuffer(data, np.uint8).reshape(SHAPE) for key, data in stored.items()}


def test_values_are_those_of_the_results(predict, tmp_path):
    marked = np.zeros(SHAPE, np.uint8)
    marked[12:18, 20:28] = 5
    for name in ("a", "b"):
        save(tmp_path / "set" / "images" / f"{name}.png", picture())
    save(tmp_path / "set" / "fluid" / "a.png", marked)
    save(tmp_path / "set" / "fluid" / "b.png", marked[:, :50])
    done = predict(tmp_path / "set")
    assert done.code == 0
    assert "2 masks of graders are shown beside" in done.printed
    assert "graders' marks not shown" in done.printed
    assert "b.png: mask is (40, 50), its image is (40, 60)" in done.printed

    values = values_of(done.out / "scans" / "a.js")
    assert values.keys() == {"mask", "probability", "truth"}
    mask = np.asarray(Image.open(done.out / "masks" / "a.png"))
    np.testing.assert_array_equal(values["mask"] * 255, mask)
    assert (values["probability"][values["mask"] == 1] >= 127).all()
    np.testing.assert_array_equal(values["truth"], marked > 0)
    assert values_of(done.out / "scans" / "b.js").keys() == {"mask", "probability"}
    np.testing.assert_array_equal(np.asarray(Image.open(done.out / "scans" / "a.png")), picture())
