"""Packaging of dme: the library, and the named weights as its package dme.zoo."""

from pathlib import Path

from setuptools import setup

setup(
    name="dme",
    version="0.1.0",
    description="Retinal OCT segmentation from pretrained networks with very few labelled scans",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="MIT",
    python_requires=">=3.10",
    packages=["dme", "dme.ops", "dme.zoo"],
    package_dir={"dme.zoo": "weights"},
    package_data={"dme": ["report.html"], "dme.zoo": ["*.json", "*.pth", "*.md"]},
    install_requires=["torch>=2.11", "numpy", "scipy", "h5py", "tqdm", "tensorboard", "pytest"],
    extras_require={
        "dev": ["ruff", "triton; platform_system == 'Linux'"],
        "export": ["onnx", "onnxscript", "onnxruntime"],
        "bench": ["torchmetrics", "monai", "onnx", "onnxscript", "onnxruntime"],
    },
)
