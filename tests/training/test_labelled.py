"""Training sets: synthetic scans beside the data."""

import numpy as np
import pytest
import torch

from dme.common.tasks import TASKS
from dme.data.phantom_cysts import training_scans
from dme.training.augment import TrainingSet
from dme.training.labelled import with_synthetic

CPU = torch.device("cpu")


@pytest.fixture
def data():
    generator = torch.Generator().manual_seed(0)
    images = [torch.randint(0, 256, (40, 60), generator=generator).byte() for _ in range(2)]
    masks = [(image > 128).byte() for image in images]
    return TrainingSet(images, masks, ["a", "b"])


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
