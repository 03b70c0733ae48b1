"""Packaging of dme: the library, the command `dme`, and the named weights as package dme.zoo."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
PUBLIC_NAMES = (HERE / "dme/__init__.py").read_text("utf-8")
VERSION = re.search(r'^__version__ = "(.+)"', PUBLIC_NAMES, re.MULTILINE)[1]

TRAIN = ["tensorboard"]  # without it a training run writes no TensorBoard events
EXPORT = ["onnx", "onnxscript", "onnxruntime"]
# DICOM files and segmentations; what decodes their JPEG, JPEG-LS and JPEG 2000
DICOM = ["pydicom>=3", "highdicom", "pylibjpeg", "pylibjpeg-libjpeg", "pylibjpeg-openjpeg"]
READERS = ["nibabel", "SimpleITK"]  # independent ones, that tests compare with
BENCH = ["torchmetrics", "monai", "openvino", "nncf", *EXPORT]  # the peers
TEST = ["pytest", *TRAIN]
BROWSER = ["selenium"]  # tests of the page, where Chromium and its driver are installed
TOOLS = ["ruff", "vulture", "pytest-cov", "triton; platform_system == 'Linux'"]
DEV = [*TOOLS, *TEST, *EXPORT, *BROWSER, *DICOM, *READERS]

setup(
    name="dme",
    version=VERSION,
    description="Retinal OCT segmentation from pretrained networks with very few labelled scans",
    long_description=(HERE / "README.md").read_text("utf-8"),
    long_description_content_type="text/markdown",
    license="MIT",
    python_requires=">=3.10",
    packages=[*find_packages(include=["dme", "dme.*"]), "dme.zoo"],
    package_dir={"dme.zoo": "weights"},
    package_data={
        "dme": ["py.typed"],
        "dme.report": ["*.html", "web/*"],
        "dme.zoo": ["*.json", "*.pth", "*.md"],
    },
    exclude_package_data={"dme.zoo": ["hrf-psp-64.pth"]},  # 58 MB, which a clone has
    entry_points={"console_scripts": ["dme = dme.__main__:main"]},
    install_requires=["torch>=2.11", "numpy", "scipy", "h5py", "tqdm", "Pillow", "xxhash"],
    extras_require={
        "train": TRAIN,
        "export": EXPORT,
        "dicom": DICOM,
        "bench": BENCH,
        "browser": BROWSER,
        "test": TEST,
        "dev": DEV,
    },
)
