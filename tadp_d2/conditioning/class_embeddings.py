"""VPD's text: one averaged embedding for each class, the same for all images (VPD, section 3.2)."""

import hashlib
import json
import logging
import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from fvcore.common.config import CfgNode
from torch import Tensor
from torch.nn import functional as F

from tadp_d2.conditioning.conditioner import (
    CONDITIONER_REGISTRY,
    Condition,
    Conditioner,
    get_class_names,
)
from tadp_d2.conditioning.templates import SLOT, class_templates
from tadp_d2.diffusion.clip_text import TextEncoder
from tadp_d2.diffusion.diffusion_model import Context, DiffusionModel
from tadp_d2.errors import UserError, reason
from tadp_d2.frozen import fingerprint

_logger = logging.getLogger(__name__)


@CONDITIONER_REGISTRY.register()
class ClassEmbeddings(Conditioner):
    """A context of one token for each class, N = number of classes; an image's text is not read."""

    def __init__(self, names: Sequence[str], embeddings: Tensor, provenance: Mapping[str, str]):
        """
        Args:
            names: of the K classes, in the order of the tokens.
            embeddings: K x D.
            provenance: of the embeddings and of the text encoder that goes with the diffusion
                model.
        """
        super().__init__()
        self.names = list(names)
        self._provenance = dict(provenance)
        self.register_buffer("embeddings", embeddings, persistent=False)

    @classmethod
    def from_config(cls, cfg: CfgNode, model: DiffusionModel) -> "ClassEmbeddings":
        text = model.load_text_encoder().to(cfg.MODEL.DEVICE)
        embeddings, provenance = load_class_embeddings(cfg, model, text)
        provenance = {"text_encoder": text.base_fingerprint, **provenance}
        return cls(get_class_names(cfg), embeddings, provenance)

    @classmethod
    def count_tokens(cls, cfg: CfgNode, model: DiffusionModel) -> int:
        return len(get_class_names(cfg))

    @classmethod
    def check_config(cls, cfg: CfgNode) -> None:
        check_class_embeddings(cfg)

    def forward(
        self, inputs: Sequence[Mapping[str, Any]], images: Tensor, latents: Tensor
    ) -> Condition:
        return Condition(Context(self.embeddings.expand(len(inputs), -1, -1)))

    def provenance(self) -> dict[str, Any]:
        return {**self._provenance, "class_names": self.names}

    def prompt(self, inputs: Mapping[str, Any]) -> str:
        return f"averaged embeddings of {', '.join(self.names)}"


def check_class_embeddings(cfg: CfgNode) -> None:
    """
    Raises:
        UserError: the file of the class embeddings, or the package of their sentences, is absent.
    """
    options = cfg.MODEL.CONDITIONER
    if not options.CLASS_EMBEDDINGS:
        class_templates(options.TEMPLATES)
    elif not Path(options.CLASS_EMBEDDINGS).is_file():
        raise UserError(
            f"no class embeddings at {options.CLASS_EMBEDDINGS}: "
            "MODEL.CONDITIONER.CLASS_EMBEDDINGS names a file as VPD publishes it "
            "(class_embeddings.pth), or is empty"
        )


def load_class_embeddings(
    cfg: CfgNode, model: DiffusionModel, text: TextEncoder
) -> tuple[Tensor, dict[str, str]]:
    """The class embeddings of a config, K x D: read from its file, or made by its sentences.

    Returns:
        The embeddings, and their fingerprints by name: of the values and, of those that are
        computed, of what they are made of. The values' last bits depend on the number of threads,
        the machine and the version of PyTorch.

    Raises:
        UserError: as `read_class_embeddings` and `embed_classes`.
    """
    options, names = cfg.MODEL.CONDITIONER, get_class_names(cfg)
    if options.CLASS_EMBEDDINGS:
        path = Path(options.CLASS_EMBEDDINGS)
        embeddings = read_class_embeddings(path, len(names), model.context_width)
        _warn_of_others(path, embeddings, names, text)
        return embeddings, {"class_embeddings": fingerprint(embeddings)}
    templates = class_templates(options.TEMPLATES)
    embeddings = embed_classes(names, templates, text)
    return embeddings, {
        "class_embeddings": fingerprint(embeddings),
        "class_sentences": sentences_fingerprint(names, templates, text),
    }


def _warn_of_others(
    path: Path, embeddings: Tensor, names: Sequence[str], text: TextEncoder
) -> None:
    """Says so if most embeddings of a file are not nearest to what their class's name gives.

    Without their mean, which all sentences share. A wrong file of the right shape is no error: it
    may be of sentences that have little to do with the names.
    """
    try:
        own = embed_classes(names, (f"a photo of {SLOT}",), text).cpu()
    except UserError:
        return  # a name that the text encoder cannot read
    own, theirs = (F.normalize(e - e.mean(dim=0), dim=1) for e in (own, embeddings))
    right = int((theirs @ own.T).argmax(dim=1).eq(torch.arange(len(names))).sum())
    if 2 * right < len(names):
        _logger.warning(
            f"{path}: only {right} of {len(names)} embeddings are nearest to what the text encoder "
            "makes of the name of their class: it may be of another base model, or its classes be "
            "in another order"
        )


def sentences_fingerprint(names: Sequence[str], templates: Sequence[str], text: TextEncoder) -> str:
    """SHA-256 of all that `embed_classes` makes embeddings of, in its order."""
    sentences = [_sentences(name, templates) for name in names]
    tokens = {
        token: value
        for token, value in sorted(text.token_fingerprints.items())
        if any(token in sentence for own in sentences for sentence in own)
    }
    made_of = [sentences, tokens, text.provenance]
    return hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()


@torch.no_grad()
def embed_classes(
    names: Sequence[str],
    templates: Sequence[str],
    text: TextEncoder,
    max_length: int | None = None,
) -> Tensor:
    """The end-of-text embedding of each class, averaged over sentences with its name, K x D.

    The mean is plain: nothing is normalized, before or after (VPD, as released). An underscore in a
    name is read as a blank.

    Args:
        templates: sentences with `SLOT` for the name.
        max_length: tokens to which sentences are cut, 20 in VPD's script; None for none.

    Raises:
        UserError: a name holds nothing that the text encoder reads, or a sentence is too long.
    """
    embeddings = []
    for name in names:
        check_name(_words(name), text)
        # The sentences of a class at a time: its embedding depends on no other class.
        sentences = _sentences(name, templates)
        embeddings.append(text.embed_ends(sentences, max_length).mean(dim=0))
    return torch.stack(embeddings)


def _sentences(name: str, templates: Sequence[str]) -> list[str]:
    return [template.replace(SLOT, _words(name)) for template in templates]


def _words(name: str) -> str:
    return name.replace("_", " ")


def check_name(name: str, text: TextEncoder) -> None:
    """
    Raises:
        UserError: a class name has no token.
    """
    # Its first and last token are those of every text.
    if len(text.tokenizer(name).input_ids) <= 2:
        raise UserError(f"the class name {name!r} holds no word that the text encoder reads")


def read_class_embeddings(path: Path, number: int, width: int) -> Tensor:
    """Reads class embeddings as VPD publishes them: a tensor K x D, saved by torch.

    Args:
        number: K, of classes.
        width: D, of the text encoder.

    Returns:
        K x D, float32.

    Raises:
        UserError: the file is absent or damaged, or holds something else.
    """
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    # torch raises many kinds for a damaged or foreign file.
    except (
        *(OSError, RuntimeError, ValueError, EOFError, LookupError, AttributeError, TypeError),
        pickle.UnpicklingError,
    ) as error:
        raise UserError(f"{path}: cannot be read as class embeddings ({reason(error)})") from None
    if not isinstance(found, Tensor) or not found.is_floating_point() or found.ndim != 2:
        raise UserError(f"{path}: expected a tensor of numbers, classes x width")
    if found.shape != (number, width):
        raise UserError(
            f"{path}: holds {found.shape[0]} embeddings of width {found.shape[1]}; expected "
            f"{number}, one for each class, of width {width}, that of the text encoder: it is of "
            "another data set or another base model"
        )
    if not found.isfinite().all():
        raise UserError(f"{path}: not all of its numbers are finite")
    return found.detach().float()
