"""Percentiles by counting are those of NumPy, which sorts."""

import numpy as np
import pytest

from dme.retina.greys import grey_counts, percentiles

PERCENTS = (0, 0.3, 1, 25, 50, 99, 99.5, 100)


def test_counts_of_all_and_of_some_pixels():
    image = np.array([[0, 3, 3], [255, 3, 0]], np.uint8)
    inside = np.array([[True, True, False], [False, True, False]])
    counts = grey_counts(image)
    assert counts.shape == (256,)
    assert {grey: counts[grey] for grey in np.flatnonzero(counts)} == {0: 2, 3: 3, 255: 1}
    some = grey_counts(image, inside)
    assert {grey: some[grey] for grey in np.flatnonzero(some)} == {0: 1, 3: 2}
    assert not grey_counts(image, np.zeros_like(inside)).any()


def test_an_image_whose_rows_are_not_in_a_row_of_memory():
    image = np.arange(60, dtype=np.uint8).reshape(6, 10)
    np.testing.assert_array_equal(
        grey_counts(image[::2, ::3]), grey_counts(image[::2, ::3].copy())
    )


@pytest.mark.parametrize("shape", [(1, 1), (1, 2), (7, 9), (64, 65)])
@pytest.mark.parametrize("most", [1, 4, 256])
def test_percentiles_as_numpys(shape, most):
    generator = np.random.default_rng(most)
    image = generator.integers(0, most, shape).astype(np.uint8)
    expected = np.percentile(image, PERCENTS)
    np.testing.assert_allclose(percentiles(grey_counts(image), PERCENTS), expected, rtol=1e-13)
