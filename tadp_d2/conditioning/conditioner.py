"""What an experiment conditions the diffusion model on: the second seam. A kind has its own file.

A conditioner maps the inputs of a batch to a context. It states what it needs of an input, how many
tokens its context has, and what it rests on. It may be trained, read the image or the latent, and
add losses.
"""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from fvcore.common.config import CfgNode
from fvcore.common.registry import Registry
from torch import Tensor, nn

from tadp_d2.diffusion.diffusion_model import Context, DiffusionModel
from tadp_d2.diffusion.families import open_diffusion_model
from tadp_d2.diffusion.lora_file import LoraFile
from tadp_d2.errors import Report, UserError

CONDITIONER_REGISTRY = Registry("CONDITIONER")


@dataclass(frozen=True)
class Condition:
    """What a pass of the diffusion model is conditioned on.

    Attributes:
        context: B x N x D, with a mask if not all tokens may be attended to.
        losses: name -> scalar, added to those of the model in training.
        outputs: name -> B x ..., added to those of the model in testing, to each image its own.
    """

    context: Context
    losses: Mapping[str, Tensor] = field(default_factory=dict)
    outputs: Mapping[str, Tensor] = field(default_factory=dict)


class Conditioner(nn.Module, ABC):
    """Inputs of a batch -> condition. Its parameters are a learning-rate group of their own.

    Attributes:
        needs: keys that every input must have, such as "caption", whatever the config.
        conditions: whether it gives a context; not where the backbone reads none.
    """

    needs: ClassVar[frozenset[str]] = frozenset()
    conditions: ClassVar[bool] = True

    @classmethod
    @abstractmethod
    def from_config(cls, cfg: CfgNode, model: DiffusionModel) -> "Conditioner":
        """
        Raises:
            UserError: a key is wrong, or a file is absent or damaged.
        """

    @classmethod
    @abstractmethod
    def count_tokens(cls, cfg: CfgNode, model: DiffusionModel) -> int:
        """N, the number of context tokens and so of attention-map channels; loads no weights."""

    @classmethod
    def needed(cls, cfg: CfgNode, training: bool) -> frozenset[str]:
        """Keys that every input must have under a config."""
        return cls.needs

    @classmethod
    def looks_at_images(cls, cfg: CfgNode) -> bool:
        """Whether it needs the pixels of images, which are not decoded if latents are cached."""
        return "image" in cls.needed(cfg, training=False)

    @classmethod
    def reads_prompts(cls, cfg: CfgNode) -> bool:
        """Whether its contexts rest on what the text encoder makes of prompts, the pooled too."""
        return False

    @classmethod
    def predicted_tags(cls, cfg: CfgNode) -> list[str]:
        """The K classes that it is trained to tell present ones of; none for most conditioners.

        Its outputs have "tag_scores" then, B x K: the higher, the more likely is the class there.
        """
        return []

    @classmethod
    def check_config(cls, cfg: CfgNode) -> None:
        """
        Raises:
            UserError: a key of this conditioner is wrong; what needs no file is checked.
        """

    @classmethod
    def check_entries(
        cls, cfg: CfgNode, entries: Iterable[Mapping[str, Any]], training: bool, report: Report
    ) -> list[str]:
        """Checks before a run what it would otherwise end on: texts that cannot be read.

        Args:
            entries: of a data set, with what `needed` asks for.
            training: whether they are read in training.
            report: gets what is wrong with single entries.

        Returns:
            What the user should know of the entries, and is no error.
        """
        return []

    @abstractmethod
    def forward(
        self, inputs: Sequence[Mapping[str, Any]], images: Tensor, latents: Tensor
    ) -> Condition:
        """
        Args:
            inputs: B input dicts.
            images: B x 3 x H x W as the backbone gets them: normalized and padded.
            latents: B x C x h x w.
        """

    @abstractmethod
    def provenance(self) -> dict[str, Any]:
        """What it rests on, by name: fingerprints and settings that decide on its contexts."""

    def prompt(self, inputs: Mapping[str, Any]) -> str:
        """What the text encoder reads for an input; a description where that is no text."""
        return ""


def get_conditioner_class(cfg: CfgNode) -> type[Conditioner]:
    """
    Raises:
        UserError: `MODEL.CONDITIONER.NAME` is not registered.
    """
    name = cfg.MODEL.CONDITIONER.NAME
    if name not in CONDITIONER_REGISTRY:
        known = ", ".join(known for known, _ in CONDITIONER_REGISTRY)
        raise UserError(f"MODEL.CONDITIONER.NAME is {name!r}: expected one of {known}")
    return CONDITIONER_REGISTRY.get(name)


def open_model_of(cfg: CfgNode) -> DiffusionModel:
    """The diffusion model that a config names.

    Raises:
        UserError: as `open_diffusion_model`, or it cannot be conditioned as the config asks for, or
            its low-rank updates are of another model.
    """
    options = cfg.MODEL.DIFFUSION
    # Read before anything is fetched.
    lora = LoraFile(options.LORA_FILE, options.LORA_SCALE) if options.LORA_FILE else None
    model = open_diffusion_model(options.WEIGHTS, options.REVISION, options.UNET)
    if lora:
        model.add_lora(lora)
    if options.TINY_ENCODER:
        model.use_tiny_encoder(Path(options.TINY_ENCODER))
    conditioner = get_conditioner_class(cfg)
    if model.reads_prompts_only and not conditioner.reads_prompts(cfg):
        known = [name for name, other in CONDITIONER_REGISTRY if other.reads_prompts(cfg)]
        raise UserError(
            f"MODEL.CONDITIONER.NAME is {cfg.MODEL.CONDITIONER.NAME}, whose contexts are no "
            f"prompt's, and {model.folder} has several text encoders, which read prompts only: "
            f"expected one of {', '.join(known)}"
        )
    return model


def build_conditioner(cfg: CfgNode) -> Conditioner:
    """The conditioner that a config names.

    Raises:
        UserError: as `from_config` of its class.
    """
    kind = get_conditioner_class(cfg)
    return kind.from_config(cfg, open_model_of(cfg) if kind.conditions else None)


def count_context_tokens(cfg: CfgNode) -> int:
    """N, the number of context tokens of a config's conditioner; loads no weights."""
    return get_conditioner_class(cfg).count_tokens(cfg, open_model_of(cfg))


def get_class_names(cfg: CfgNode) -> list[str]:
    """Those of the config, or of the data that the model is trained on.

    Raises:
        UserError: there are none, or one stands twice.
    """
    # Detectron2's catalog is asked here, so that conditioners work without it.
    from tadp_d2.tasks.task import get_task

    names = list(cfg.MODEL.CONDITIONER.CLASS_NAMES) or get_task(cfg).classes()
    if not names:
        raise UserError("there are no class names: MODEL.CONDITIONER.CLASS_NAMES must list them")
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice and cfg.MODEL.CONDITIONER.CLASS_NAMES:
        raise UserError(f"MODEL.CONDITIONER.CLASS_NAMES names {twice[0]!r} twice")
    return names


def read_text(inputs: Mapping[str, Any], key: str) -> str:
    """A text of an input.

    Raises:
        UserError: the input has none; names its image.
    """
    try:
        return inputs[key]
    except KeyError:
        raise UserError(
            f"no {key} for image {inputs.get('file_name', inputs.get('image_id', '?'))}: the "
            f'input dict needs the key "{key}"'
        ) from None
