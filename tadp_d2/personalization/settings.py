"""All that decides on a learned token or a fine-tuned UNet besides images and base model.

Nothing here imports torch: a command reads it to show its help.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tadp_d2.errors import UserError

PRECISIONS = ("fp32", "bf16", "fp16")
# What a token stands for, which decides on the templates.
KINDS = ("style", "object")

# TADP, section C.1: its text, its tables, and its released code. A preset has the settings
# of its source; what that leaves open is as in the first, and below.
PRESETS: dict[str, dict[str, dict[str, Any]]] = {
    "paper-text": {
        "invert": {"steps": 1000, "rate": 5e-4},
        "dreambooth": {"steps": 1000, "rate": 2e-6, "prior_images": 0},
    },
    "paper-tables": {
        "invert": {"steps": 3000, "batch": 1, "accumulation": 4},
        "dreambooth": {"steps": 1000, "rate": 5e-6, "prior_images": 200},
    },
    "released": {
        "invert": {"steps": 3000, "learn": "style"},
        "dreambooth": {"rate": 5e-6, "prior_images": 0, "prompt": "an image in sks style"},
    },
}


@dataclass(frozen=True, kw_only=True)
class PersonalizationSettings:
    """What both methods share.

    Attributes:
        steps: updates of the weights.
        rate: learning rate, the same in every step.
        batch: images that are computed together.
        accumulation: batches whose gradients are averaged into one step.
        size: side of the square crops, pixels.
        flip: mirror half of the crops.
        center_crop: always the middle of an image instead of a random part.
        weight_decay: of AdamW.
        clip: greatest norm of a step's gradient; 0 for no limit.
        precision: one of `PRECISIONS`; the weights themselves stay fp32.
        gradient_checkpointing: less memory, more time, equal results.
        seed: of order, crops, noise and time steps.
    """

    steps: int
    rate: float
    batch: int = 1
    accumulation: int = 1
    size: int = 512
    flip: bool = True
    center_crop: bool = False
    weight_decay: float = 0.01
    clip: float = 0.0
    precision: str = "fp32"
    gradient_checkpointing: bool = False
    seed: int = 0

    def check(self) -> None:
        """
        Raises:
            UserError: a value is out of range.
        """
        for name in ("steps", "batch", "accumulation", "size"):
            _expect(name, getattr(self, name), getattr(self, name) >= 1, "at least 1")
        _expect("rate", self.rate, 0 < self.rate < math.inf, "a number above 0")
        for name in ("weight_decay", "clip"):
            _expect(name, getattr(self, name), 0 <= getattr(self, name) < math.inf, "at least 0")
        _expect("precision", self.precision, self.precision in PRECISIONS, " or ".join(PRECISIONS))


@dataclass(frozen=True, kw_only=True)
class InversionSettings(PersonalizationSettings):
    """Textual inversion.

    Attributes:
        token: the new word.
        init: the word whose vector it starts from.
        learn: one of `KINDS`.
        vectors: how many vectors the token has.
    """

    # The paper's tables; its text does not specify it.
    accumulation: int = 4
    token: str
    init: str
    learn: str = "style"
    vectors: int = 1

    def check(self) -> None:
        super().check()
        _expect("vectors", self.vectors, self.vectors >= 1, "at least 1")
        _expect("learn", self.learn, self.learn in KINDS, " or ".join(KINDS))


@dataclass(frozen=True, kw_only=True)
class DreamBoothSettings(PersonalizationSettings):
    """DreamBooth.

    Attributes:
        prompt: what every image is trained with; it holds the word to be learned.
        prior_images: images of the class that the base model makes, and must still be able to
            make afterwards (prior preservation); 0 for none.
        prior_prompt: what those are made and trained with.
        prior_weight: of their loss.
        train_text_encoder: fine-tune the text encoder too.
        adam_8bit: an optimizer that takes a quarter of the memory (bitsandbytes).
        lora: rank of low-rank updates that are trained instead of the UNet's weights and added to
            them at the end (peft); 0 for none.
    """

    clip: float = 1.0
    prompt: str
    prior_images: int = 0
    prior_prompt: str = ""
    prior_weight: float = 1.0
    train_text_encoder: bool = False
    adam_8bit: bool = False
    lora: int = 0

    def check(self) -> None:
        super().check()
        _expect("prompt", self.prompt, bool(self.prompt.strip()), "a text")
        _expect("prior_images", self.prior_images, self.prior_images >= 0, "at least 0")
        right = 0 <= self.prior_weight < math.inf
        _expect("prior_weight", self.prior_weight, right, "at least 0")
        _expect("lora", self.lora, self.lora >= 0, "a rank, or 0 for none")
        if self.prior_images and not self.prior_prompt:
            raise UserError(
                f"{self.prior_images} prior images need --prior-prompt: what they show in the base "
                'model\'s words, such as "a painting"; or --prior-images 0'
            )
        if self.lora and self.train_text_encoder:
            raise UserError("--lora trains the UNet only: leave out --train-text-encoder")


_CLASSES = {"invert": InversionSettings, "dreambooth": DreamBoothSettings}


def resolve(method: str, preset: str, given: Mapping[str, Any]) -> PersonalizationSettings:
    """The settings of a preset, with what is given explicitly in their place, checked.

    Args:
        method: "invert" or "dreambooth".
        preset: a key of `PRESETS`.
        given: attribute -> value, or None for what is not given.

    Raises:
        UserError: a value is out of range or missing.
    """
    explicit = {name: value for name, value in given.items() if value is not None}
    values = {**PRESETS["paper-text"][method], **PRESETS[preset][method], **explicit}
    for name in ("token", "init") if method == "invert" else ("prompt",):
        if name not in values:
            raise UserError(f"{_flag(name)} is missing, and preset {preset} does not set it")
    settings = _CLASSES[method](**values)
    settings.check()
    return settings


def _expect(name: str, value: Any, right: bool, expected: str) -> None:
    if not right:
        raise UserError(f"{_flag(name)} {value}: expected {expected}")


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")
