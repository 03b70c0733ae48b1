"""What other devices make of a sample, and training beside synthetic scans."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from dme.common.tasks import TASKS
from dme.data.phantom_cysts import training_scans
from dme.training.augment import TrainingSet, sample_batch
from dme.training.devices import blurred, coarsened, speckle
from dme.training.settings import Augment
from dme.training.tasks import with_synthetic

CPU = torch.device("cpu")


@pytest.fixture
def data():
    generator = torch.Generator().manual_seed(0)
    images = [torch.randint(0, 256, (40, 60), generator=generator).byte() for _ in range(2)]
    masks = [(image > 128).byte() for image in images]
    return TrainingSet(images, masks, ["a", "b"])


def test_blur_is_scipys(data):
    sample = data.images[0][None].float()
    expected = gaussian_filter(sample[0].numpy(), 1.5, mode="nearest", truncate=10 / 3)
    assert np.abs(blurred(sample, 1.5)[0].numpy() - expected).max() < 0.3
    assert blurred(sample, 0.1) is sample


def test_coarser_samples_keep_their_size_and_mean(data):
    sample = data.images[0][None].float()
    coarse = coarsened(sample, 2.5)
    assert coarse.shape == sample.shape
    assert coarse.mean() == pytest.approx(sample.mean().item(), rel=0.03)
    assert coarse.std() < 0.5 * sample.std()
    assert coarsened(sample, 1.0) is sample


def test_grains_are_as_large_as_asked():
    for pixels in (1.0, 3.0):
        noise = speckle(torch.Size((200, 200)), pixels, torch.Generator().manual_seed(1))
        assert noise.mean().abs() < 1e-5
        assert noise.std() == pytest.approx(1, abs=1e-4)
        neighbours = (noise[:, 1:] * noise[:, :-1]).mean().item()
        assert neighbours < 0.05 if pixels == 1 else neighbours > 0.5


def test_nothing_new_is_drawn_unless_asked_for(data):
    plain = Augment(flip=True, rotate=8, zoom=0.2, gamma=0.2, noise=0.1)
    x, labels = sample_batch(data, [0, 1], plain, 3, 5)
    again, _ = sample_batch(data, [0, 1], replace(plain, grain=1e-9), 3, 5)
    assert torch.allclose(x, again, atol=1e-3)
    other, moved = sample_batch(data, [0, 1], replace(plain, stretch=0.5), 3, 5)
    assert not torch.equal(labels, moved)
    assert other.shape == x.shape


def test_each_sample_has_a_device_of_its_own_which_a_resumed_run_repeats(data):
    augment = Augment(blur=2, resolution=2, grain=0.6)
    first, _ = sample_batch(data, [0, 0], augment, 0, 7)
    again, _ = sample_batch(data, [0, 0], augment, 0, 7)
    assert torch.equal(first, again)
    assert not torch.allclose(first[0], first[1])


def test_synthetic_scans_stand_beside_the_data(data):
    entry = {"size": "um", "um_per_px": [15.48, 45.32]}
    both = with_synthetic(data, 3, TASKS["fluid"], entry, CPU)
    assert len(both.images) == 5
    assert both.names[:2] == ["a", "b"]
    for image, mask in zip(both.images, both.masks, strict=True):
        assert image.shape == mask.shape
    # one physical scale, whatever the device
    heights = [len(image) for image in both.images[2:]]
    assert heights == [124, 129, 128]


def test_scans_with_large_cysts_stand_beside_those_of_a_task_with_layers(data):
    for name in ("layers", "layers+fluid"):
        task = TASKS[name]
        both = with_synthetic(data, 2, task, {"size": "half"}, CPU)
        assert both.names == ["a", "b", "cyst_000", "cyst_001"]
        scan = next(training_scans(1))
        image, mask = both.images[2].numpy(), both.masks[2].numpy()
        assert image.shape == mask.shape == (248, 384)

        # class by class as the boundaries at half size part them, fluid above all
        rows = (scan.layers.reshape(8, 384, 2).mean(2) + 0.5) / 2 - 0.5
        pixel = np.arange(248)[:, None, None]
        expected = (pixel > rows.T).sum(2)  # (248, 384)
        from_edge = np.abs(pixel - rows.T).min(2)  # px
        fluid = scan.fluid.reshape(248, 2, 384, 2).mean((1, 3)) >= 0.5
        if task.finds_fluid:
            assert (mask[fluid] == task.fluid_label).all()
            expected[fluid] = task.fluid_label
        known = mask != 255
        assert (mask == expected)[known].mean() > 0.999
        assert known[from_edge > 2.6].all()

        # edges are unknown, but the ILM where the cyst takes much of the retina
        height = scan.layers[-1] - scan.layers[0]
        over = (scan.fluid.sum(0) / height).reshape(384, 2).min(1)
        from_ilm = np.abs(pixel[..., 0] - rows[0])
        assert known[(from_ilm < 1.4) & (over > 0.4)].all()
        beside = (from_edge < 1.4) & ~fluid & (over < 0.2)
        assert known[beside].mean() < 0.01
