"""Packaging of dme: the library, and the named weights as its package dme.zoo."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent

setup(
    name="dme",
    version=re.search(
        r'^__version__ = "(.+)"', (HERE / "dme/__init__.py").read_text("utf-8"), re.M
    )[1],
    description="Retinal OCT segmentation from pretrained networks with very few labelled scans",
    long_description=(HERE / "README.md").read_text("utf-8"),
    long_description_content_type="text/markdown",
    license="MIT",
    python_requires=">=3.10",
    packages=[*find_packages(include=["dme", "dme.*"]), "dme.zoo"],
    package_dir={"dme.zoo": "weights"},
    package_data={"dme.report": ["page.html"], "dme.zoo": ["*.json", "*.pth", "*.md"]},
    install_requires=["torch>=2.11", "numpy", "scipy", "h5py", "tqdm", "tensorboard", "pytest"],
    extras_require={
        "dev": ["ruff", "triton; platform_system == 'Linux'"],
        "export": ["onnx", "onnxscript", "onnxruntime"],
        "bench": ["torchmetrics", "monai", "onnx", "onnxscript", "onnxruntime"],
    },
)
