"""Fixtures of the tests of the page."""

from collections.abc import Iterator

import pytest
from helpers.browser import Browser


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """One window for all tests, since its start takes longest."""
    browser = Browser()
    yield browser
    browser.close()
