"""Fixtures shared by the tests. Those that need real data or all golden files skip without."""

import os
import signal
from pathlib import Path

# before torch is imported: on tiny tensors and a busy machine, threads mostly wait for each other
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest  # noqa: E402
import torch  # noqa: E402


def pytest_addoption(parser):
    parser.addoption("--slow", action="store_true", help="also run the tests marked slow")


def pytest_configure(config):
    # a shell's background jobs ignore Ctrl-C, which some tests send, and so would their processes
    signal.signal(signal.SIGINT, signal.default_int_handler)
    config.addinivalue_line("markers", "slow: takes more than ten seconds; run with --slow")
    config.addinivalue_line("markers", "gpu: needs a CUDA device")
    config.addinivalue_line("markers", "browser: needs Chromium or WebKit, its driver, selenium")


def pytest_collection_modifyitems(config, items):
    for item in items:
        if "slow" in item.keywords and not config.getoption("--slow"):
            item.add_marker(pytest.mark.skip(reason="slow; run with --slow"))
        if "gpu" in item.keywords and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="no CUDA device here"))


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
    """Folder with all golden files of the reference library (variable DME_TEST_GOLDEN)."""
    return _folder("DME_TEST_GOLDEN")


@pytest.fixture(scope="session")
def vendor() -> Path:
    """Folder with exports of devices and expected.csv (variable DME_TEST_VENDOR)."""
    return _folder("DME_TEST_VENDOR")


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch, tmp_path):
    """No test reads the user's data or writes the user's cache."""
    for variable in ("DME_DATA", "HRF_DATA"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("DME_CACHE", str(tmp_path / "cache"))
