"""What may be compared."""

import json

import pytest

from dme.common.errors import InputError
from dme.report.compare import compare


def test_thickness_that_one_visit_was_helped_to_is_not_compared(tmp_path):
    told = {"layers_weights_sha256": "b" * 64, "tta": False}
    for visit, settings in (
        ("a", told | {"weights_sha256": "a" * 64, "threshold": 0.5}),
        ("b", told),
    ):
        (tmp_path / visit).mkdir()
        content = {"finished": True, "settings": settings, "volumes": [], "scans": []}
        (tmp_path / visit / "measurements.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match="weights_sha256 is aaa.* and None in .*b; predict both"):
        compare(tmp_path / "a", tmp_path / "b")
