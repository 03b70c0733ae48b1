"""Fixtures shared by the tests. Real data and the full golden files are optional: tests that need them skip without."""

import os
from pathlib import Path

import pytest


def _folder(variable: str) -> Path:
    folder = os.environ.get(variable)
    if not folder or not Path(folder).is_dir():
        pytest.skip(f"{variable} does not point at a folder")
    return Path(folder)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder with chiu2015/, hrf/ and octlayers/ (environment variable DME_TEST_DATA)."""
    return _folder("DME_TEST_DATA")


@pytest.fixture(scope="session")
def golden() -> Path:
    """Folder with all golden files of the reference library (environment variable DME_TEST_GOLDEN)."""
    return _folder("DME_TEST_GOLDEN")


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch, tmp_path):
    """No test reads the user's data or writes the user's cache."""
    for variable in ("DME_DATA", "HRF_DATA"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("DME_CACHE", str(tmp_path / "cache"))
