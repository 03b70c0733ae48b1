"""Made-up scans and networks to fine-tune, and what fine-tuning should report of them."""

import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F

from dme.inference.protocols import run_protocol
from dme.inference.windows import whole
from dme.nets.checkpoint import save_model
from dme.nets.loading import load_model
from dme.nets.segmenter import build_model, normalise

RUN = ("--iters", 3, "--crop", 64)
WET = (1, 1, 0, 1, 1, 1, 0, 1, 1, 0)  # which of the made-up scans hold fluid
STUDY = (256, 256)


def make_folder(
    root: Path,
    wet=WET,
    sides=((96, 128),),
    index: str | None = None,
) -> Path:
    """Grey noise with a bright ellipse where there is fluid; scan00's last columns are unknown."""
    rng = np.random.default_rng(0)
    for name in ("images", "fluid"):
        (root / name).mkdir(parents=True)
    for i, fluid in enumerate(wet):
        height, width = sides[i % len(sides)]
        y, x = np.mgrid[:height, :width]
        middle = 0.4 * height + 2 * i
        centre = 0.5 * width + 3 * i
        down = (y - middle) / (12 + i)
        right = (x - centre) / 25
        ellipse = down**2 + right**2 < 1
        mask = (fluid * ellipse).astype(np.uint8)
        grey = 70 + 90 * mask + rng.normal(0, 25, mask.shape)
        image = grey.clip(0, 255).astype(np.uint8)
        if i == 0 and any(wet):  # beside nothing but 0, 255 would mean fluid
            mask[:, -20:] = 255
        Image.fromarray(image).save(root / "images" / f"scan{i:02}.png")
        Image.fromarray(mask).save(root / "fluid" / f"scan{i:02}.png")
    if index:
        (root / "index.csv").write_text(index)
    return root


def make_checkpoint(path: Path, steps: int = 0, seed: int = 2, **arch) -> Path:
    """A tiny network; trained for some steps it takes bright discs for fluid, and finds both."""
    torch.manual_seed(seed)
    model = build_model(**{"width": 2} | arch).train()
    optimizer = torch.optim.Adam(model.parameters(), 0.03)
    y, x = torch.meshgrid(torch.arange(64), torch.arange(64), indexing="ij")
    for step in range(steps):
        # two discs, of radius 15 and 25
        centres = 64 * torch.rand(2, 2, 1, 1)
        radii = torch.tensor([15, 25])[:, None, None]
        down = y - centres[:, 0]
        right = x - centres[:, 1]
        disc = down**2 + right**2 < radii**2

        # noise, fine or coarse as of scans enlarged
        grain = 64 >> step % 3
        noise = torch.randn(2, 1, grain, grain)
        noise = F.interpolate(noise, (64, 64), mode="bilinear")[:, 0]

        image = (70 + 90 * disc + 25 * noise).clamp(0, 255)
        logits = model(normalise(image, model.preprocess))
        optimizer.zero_grad()
        F.cross_entropy(logits, disc.long()).backward()
        optimizer.step()
    save_model(model, path)
    return path


def truth_256(data: Path, name: str) -> np.ndarray:
    """A mask file at 256 x 256: fluid bicubic, the unknown nearest."""
    mask = np.asarray(Image.open(data / "fluid" / f"{name}.png"))
    fluid = Image.fromarray((mask == 1).astype(np.uint8))
    unknown = Image.fromarray((mask == 255).astype(np.uint8))
    fluid = fluid.resize(STUDY, Image.Resampling.BICUBIC)
    return np.where(unknown.resize(STUDY, Image.Resampling.NEAREST), 255, fluid)


def image_256(data: Path, name: str) -> np.ndarray:
    image = Image.open(data / "images" / f"{name}.png")
    return np.array(image.resize(STUDY, Image.Resampling.BICUBIC))


def predicted(model, data: Path, name: str) -> dict[str, np.ndarray]:
    """Label maps of an image file: "study" at 256 x 256, "native" at its own pixels."""
    image = np.array(Image.open(data / "images" / f"{name}.png"))
    if model.preprocess["size"] == "512":
        small = torch.tensor(image_256(data, name))
        logits = run_protocol(model, small[None], "light")
    else:
        x = normalise(torch.tensor(image)[None], model.preprocess)
        with torch.inference_mode():
            logits = whole(model, x)
    probability = Image.fromarray(logits.softmax(1)[0, 1].numpy())

    def label_map(height, width):
        resized = probability.resize((width, height), Image.Resampling.BILINEAR)
        return np.asarray(resized) > 0.5

    return {"study": label_map(*STUDY), "native": label_map(*image.shape)}


def confusion(truth: np.ndarray, guess: np.ndarray) -> np.ndarray:
    """(2, 2): pixels by truth and guess, both 0 or 1."""
    counts = np.zeros((2, 2), int)
    for row, column in np.ndindex(2, 2):
        pixels = (truth == row) & (guess == column)
        counts[row, column] = pixels.sum()
    return counts


def assert_counted(out: Path, data: Path) -> None:
    """The reported counts are those of reported scans and saved network, pixel by pixel."""
    model = load_model(out / "model.pt").to(memory_format=torch.channels_last)
    results = json.loads((out / "results.json").read_text())
    names = results["scans"]
    reported = {}
    for kind, counts in results["counts_per_scan"].items():
        reported[kind] = np.array(counts)
        assert reported[kind].shape == (len(names), 2, 2)
    for i, name in enumerate(names):
        native = np.asarray(Image.open(data / "fluid" / f"{name}.png"))
        for kind, guess in predicted(model, data, name).items():
            truth = truth_256(data, name) if kind == "study" else native
            expected = confusion(truth, guess)
            counts = reported[kind][i]
            assert counts.sum() == expected.sum()
            # ties, and the rounding of those probabilities that are resized
            assert np.abs(counts - expected).max() <= 2, (name, kind)
