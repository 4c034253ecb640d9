"""Metadata of the package. `make setup` installs it with the pinned, tested set of versions.

The wheel holds configs/ and the guide to data sets below `tadp_d2/`.
"""

from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
VERSION = (ROOT / "tadp_d2" / "__init__.py").read_text().split('__version__ = "')[1].split('"')[0]
# Folders of the checkout that lie inside of an installed package.
FOLDERS = {"tadp_d2.configs": "configs", "tadp_d2.datasets": "datasets"}

setup(
    name="tadp_d2",
    version=VERSION,
    description="Text-aligned diffusion backbones for Detectron2 (TADP)",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11.4",
    packages=[*find_packages(include=["tadp_d2", "tadp_d2.*"]), *FOLDERS],
    package_dir=FOLDERS,
    package_data={
        "tadp_d2.app": ["app.html"],
        "tadp_d2.configs": ["*.yaml", "*/*.yaml"],
        "tadp_d2.datasets": ["README.md"],
        "tadp_d2.reports": ["page.html"],
        "tadp_d2.synthetic": ["clip/*", "stable_diffusion/*", "stable_diffusion/*/*"],
    },
    # Detectron2 is on no package index under its own name: python -m tadp_d2.install_detectron2.
    install_requires=[
        "torch>=2.6",
        "torchvision",
        "diffusers>=0.42",
        "transformers>=5",
        "tokenizers",
        "huggingface_hub",
        "safetensors",
        # The matcher of transformers' Mask2Former.
        "scipy",
        "fvcore",
        "matplotlib",
        "numpy",
        # Detectron2's Visualizer imports it, and Detectron2 does not require it.
        "opencv-python-headless",
        # What tadp_d2.install_detectron2 needs, and then Detectron2.
        "setuptools",
        "cloudpickle",
        "iopath>=0.1.7",
        "omegaconf>=2.1",
        "termcolor>=1.1",
        "tqdm>4.29.0",
        "yacs>=0.1.6",
        "pillow",
        "pyyaml",
        "tabulate",
        "tensorboard",
        "pycocotools",
        "cityscapesscripts",
        "openai",
    ],
    extras_require={
        "dev": ["pytest", "ruff"],
        "nouns": ["textblob"],
        "nyu": ["h5py"],
        "clip-templates": ["open_clip_torch"],
        "lora": ["peft"],
        "normalization": ["ftfy"],
        "adam-8bit": ["bitsandbytes"],
        "openvino": ["openvino>=2026"],
    },
    entry_points={"console_scripts": ["tadp-d2 = tadp_d2.cli:main"]},
)
