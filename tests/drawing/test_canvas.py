"""PNG files hold what was drawn."""

import numpy as np
import pytest
from PIL import Image

from dme.drawing.canvas import save_png


@pytest.mark.parametrize("fast", [False, True])
def test_save_png(tmp_path, fast):
    picture = np.random.default_rng(0).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    file = tmp_path / "new" / "a.png"
    save_png(file, picture, fast)
    assert np.array_equal(np.asarray(Image.open(file)), picture)
    assert list(file.parent.iterdir()) == [file]
