"""Captions by BLIP-2, or by another checkpoint of transformers that describes an image unasked.

A caption depends on its image and the settings alone, not on its neighbors in a batch: nothing
is sampled, every image is prepared by itself, and no row of a batch needs padding because there
is no prompt. What remains is rounding, which a GPU or a reduced precision may do differently for
batches of different sizes.
"""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

from tadp_d2.captioning.sets import CaptionImage
from tadp_d2.captioning.sources import Source, provenance
from tadp_d2.device import find_device
from tadp_d2.diffusion.model_folder import WEIGHTS, Format, find_folder, loading, or_shards
from tadp_d2.diffusion.model_part import check_complete
from tadp_d2.errors import UserError, reason
from tadp_d2.files import sha256
from tadp_d2.precision import DTYPES

# The paper's captioner (TADP, section 3.3).
DEFAULT_MODEL = "Salesforce/blip2-opt-2.7b"

CAPTIONER = Format(
    "captioning model",
    (
        ("config.json",),
        ("preprocessor_config.json", "processor_config.json"),
        ("tokenizer.json", "vocab.json", "vocab.txt", "tokenizer.model", "spiece.model"),
        or_shards(*WEIGHTS),
    ),
    ("*.json", "*.txt", "*.model", "model*.safetensors"),
    "--model must name a folder in transformers' format (config.json, a processor, a tokenizer, "
    "model*.safetensors) or a hub id. Where the hub cannot be reached, fetch it elsewhere with "
    "`hf download MODEL --local-dir FOLDER` and name the folder",
)


@dataclass(frozen=True)
class Blip2Settings:
    """All that decides on the captions besides the weights.

    Attributes:
        dtype: a key of `DTYPES`.
        min_new_tokens, max_new_tokens: bounds on a caption's length in tokens of the captioner
            (TADP: at least 0, 20 or 40).
    """

    dtype: str = "fp32"
    min_new_tokens: int = 0
    max_new_tokens: int = 77

    def check(self) -> None:
        """
        Raises:
            UserError: a value is out of range.
        """
        if self.dtype not in DTYPES:
            raise UserError(f"--dtype {self.dtype}: expected one of {', '.join(DTYPES)}")
        if not 0 <= self.min_new_tokens <= self.max_new_tokens or self.max_new_tokens < 1:
            raise UserError(
                f"--min-new-tokens {self.min_new_tokens} --max-new-tokens {self.max_new_tokens}: "
                "expected 0 <= least <= most, and most at least 1"
            )


def blip2(
    model: str = DEFAULT_MODEL,
    revision: str = "",
    device: str = "",
    settings: Blip2Settings | None = None,
) -> Source:
    """Captions by a model. It is found now, and loaded for the first batch.

    Args:
        model: a folder, or the id of a model on the hub.
        revision: branch, tag or commit of the hub's model; empty for its main branch.
        device: such as cpu or cuda:1; empty for a GPU if there is one.

    Raises:
        UserError: the model is missing or incomplete, or a setting is out of range.
    """
    settings = settings or Blip2Settings()
    settings.check()
    torch_device = find_device(device)
    folder = find_captioner(model, revision)
    captioner: list[Captioner] = []

    def texts(_: Sequence[CaptionImage], images: Sequence[Image.Image]) -> list[str]:
        if not captioner:
            captioner.append(Captioner.load(folder, settings.dtype, torch_device))
        return captioner[0].captions(images, settings.min_new_tokens, settings.max_new_tokens)

    made_by = provenance(
        "blip2",
        **model_identity(model, folder),
        **asdict(settings),
        transformers=transformers.__version__,
    )
    return Source(made_by, texts, needs_pictures=True)


def model_identity(model: str, folder: Path) -> dict[str, Any]:
    """The name and exact version of a checkpoint: a commit of the hub, or a hash of the weights.

    A folder goes by its own name, so that parts made on several machines agree.
    """
    if not os.path.isdir(model):
        return {"model": model, "revision": folder.name}
    digest = hashlib.sha256()
    for path in sorted(
        [folder / "config.json", *folder.glob("*.safetensors"), *folder.glob("*.bin")]
    ):
        digest.update(f"{path.name} {sha256(path)}\n".encode())
    return {"model": folder.resolve().name, "revision": f"sha256:{digest.hexdigest()}"}


class Captioner:
    """An image-to-text model with its processor, which describes images without a prompt."""

    def __init__(self, model: torch.nn.Module, processor: Any):
        """
        Args:
            model: an image-to-text model of transformers.
            processor: it has an `image_processor` and decodes tokens.
        """
        self.model = model.eval().requires_grad_(False)
        self.processor = processor

    @classmethod
    def from_pretrained(
        cls,
        model: str = DEFAULT_MODEL,
        revision: str = "",
        dtype: str = "fp32",
        device: str = "",
    ) -> "Captioner":
        """Loads a captioner: arguments and errors as for `blip2`."""
        return cls.load(find_captioner(model, revision), dtype, find_device(device))

    @classmethod
    def load(cls, folder: Path, dtype: str, device: torch.device) -> "Captioner":
        """Loads a captioner from a folder.

        Raises:
            UserError: it is damaged, lacks weights, or needs a prompt.
        """
        offline = {"local_files_only": True, "trust_remote_code": False}
        with loading(folder):
            processor = AutoProcessor.from_pretrained(folder, **offline)
            model, report = AutoModelForImageTextToText.from_pretrained(
                folder, dtype=DTYPES[dtype], output_loading_info=True, **offline
            )
        check_complete(folder, report)
        _check_promptless(folder, model, processor)
        captioner = cls(model.to(device), processor)
        captioner._try(folder)
        return captioner

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    def captions(
        self, images: Sequence[Image.Image], min_new_tokens: int = 0, max_new_tokens: int = 77
    ) -> list[str]:
        """The captions of RGB images of any sizes, each on one line; a caption may be empty.

        Raises:
            UserError: the images do not fit into the device's memory together.
        """
        try:
            tokens = self._generate(images, min_new_tokens, max_new_tokens)
        except torch.OutOfMemoryError:
            raise UserError(
                f"{len(images)} images at once do not fit into the memory of {self.device}: "
                "use a smaller --batch-size, or --dtype bf16"
            ) from None
        texts = self.processor.batch_decode(tokens, skip_special_tokens=True)
        return [" ".join(text.split()) for text in texts]

    @torch.inference_mode()
    def _generate(
        self, images: Sequence[Image.Image], min_new_tokens: int, max_new_tokens: int
    ) -> torch.Tensor:
        # One by one: prepared together, images of different sizes may be padded to the largest.
        prepare = self.processor.image_processor
        pixels = [prepare(images=p, return_tensors="pt").pixel_values for p in images]
        return self.model.generate(
            pixel_values=torch.cat(pixels).to(self.device, self.model.dtype),
            # A checkpoint's own generation_config may sample or search.
            do_sample=False,
            num_beams=1,
            min_new_tokens=min_new_tokens,
            max_new_tokens=max_new_tokens,
        )

    def _try(self, folder: Path) -> None:
        try:
            self._generate([Image.new("RGB", (32, 32))], 0, 1)
        except (ValueError, TypeError, AttributeError, KeyError) as error:
            raise UserError(
                f"{folder}: this model does not describe an image by itself ({reason(error)}); "
                "use BLIP-2, BLIP, or another captioner that needs no prompt"
            ) from error


def _check_promptless(folder: Path, model: torch.nn.Module, processor: Any) -> None:
    if getattr(processor, "chat_template", None):
        raise UserError(
            f"{folder}: {type(model).__name__} answers questions in a chat; use BLIP-2, BLIP, or "
            "another captioner that needs no prompt"
        )
    if model.config.model_type == "blip-2" and model.config.image_token_index is None:
        raise UserError(
            f"{folder}/config.json: has no image_token_index, which BLIP-2 checkpoints have since "
            "transformers 4.46; take a current revision of the model"
        )


def find_captioner(name: str = DEFAULT_MODEL, revision: str = "") -> Path:
    """The folder of a captioner, as `find_folder` finds it."""
    return find_folder(CAPTIONER, name, revision)
