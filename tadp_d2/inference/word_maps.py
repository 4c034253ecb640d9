"""What each word of a prompt looks at: the cross-attention maps, by word and stride.

The maps are those that the backbone hands to the head. Drawing them is not done here.
"""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.structures import ImageList
from torch import Tensor
from torch.nn import functional as F

from tadp_d2.conditioning.caption_prompt import CaptionPrompt
from tadp_d2.conditioning.class_embeddings import embed_classes
from tadp_d2.conditioning.conditioner import (
    Conditioner,
    build_conditioner,
    get_conditioner_class,
    open_model_of,
)
from tadp_d2.conditioning.templates import class_templates
from tadp_d2.conditioning.text_adapter import TextAdapter
from tadp_d2.data.loader import needed_texts
from tadp_d2.diffusion.clip_text import TextEncoder
from tadp_d2.diffusion.diffusion_model import Context
from tadp_d2.diffusion.prompt_words import Word, find_words, join_words
from tadp_d2.errors import UserError
from tadp_d2.inference.predictor import load_model, prepare
from tadp_d2.modeling.backbone import (
    DiffusionBackbone,
    find_diffusion_backbone,
    load_backbone,
)

_logger = logging.getLogger(__name__)

# The name of the average over the levels, among them.
MEAN = "mean"


class Prompt(NamedTuple):
    """What an image is looked at with.

    Attributes:
        text: the prompt, or a description of what has no text.
        words: the words and the places of their tokens in the context.
        context: 1 x N x D.
    """

    text: str
    words: list[Word]
    context: Context


@torch.no_grad()
def make_prompts(
    conditioner: CaptionPrompt | TextAdapter,
    said: str,
    objects: Sequence[str] = (),
    classes: Sequence[str] = (),
    reads: str = "caption",
) -> dict[str, Prompt]:
    """The prompts of TADP's figure 4, by name: what is not given is left out.

    Args:
        conditioner: of a text with the key `reads` of an input.
        said: that text, the prompt "caption" or "expression", under the modifier of testing, as the
            two next.
        objects: "oracle": the names of what is in the picture (TADP, equation 5).
        classes: "class names": all of them (equation 3); "class embeddings":
            `embed_classes` over this project's sentences, where there is one text encoder.

    Raises:
        UserError: a prompt has no word.
    """
    texts = {reads: said}
    if objects:
        texts["oracle"] = " ".join(objects)
    if classes:
        texts["class names"] = " ".join(classes)
    text = conditioner.text
    prompts = {}
    for name, own in texts.items():
        inputs = {reads: own}
        prompt = conditioner.prompt(inputs)
        words = find_words(prompt, text.tokenizer)
        if not words:
            raise UserError(f"the {name} is empty: there is no word to look for")
        if " ".join(text.normalize(own).split()) not in prompt:
            _logger.warning(f"The {name} is too long to be read: cut to {prompt!r}")
        # Neither reads the image.
        prompts[name] = Prompt(prompt, words, conditioner([inputs], None, None).context)
    if classes and isinstance(text, TextEncoder):
        sentences = class_templates("own")
        embeddings = embed_classes(classes, sentences, text)
        words = [Word(name, (position,)) for position, name in enumerate(classes)]
        told = f"a mean over {len(sentences)} sentences for each class"
        prompts["class embeddings"] = Prompt(told, words, Context(embeddings[None]))
    return prompts


def choose_prompts(prompts: Mapping[str, Prompt], names: Sequence[str]) -> dict[str, Prompt]:
    """Those of `make_prompts` with the names, written with hyphens for blanks, in their order.

    Raises:
        UserError: one of them was not made.
    """
    found = {name: prompts.get(name.replace("-", " ")) for name in names}
    for name, prompt in found.items():
        if prompt is None:
            needed = {"oracle": "--objects", "expression": "--expression", "caption": "--caption"}
            raise UserError(f"--prompts {name}: needs {needed.get(name, 'the names of classes')}")
    return {name.replace("-", " "): prompt for name, prompt in found.items()}


def end_of_text(prompt: Prompt) -> Prompt:
    """A prompt of one word: the tokens behind the words of another, which have read all of them."""
    last = max(position for word in prompt.words for position in word.positions)
    behind = range(last + 1, prompt.context.embeddings.shape[1])
    return prompt._replace(words=[Word("end of text", tuple(behind))])


class AttentionProbe:
    """Image and prompt -> the map of each word, at each level of a backbone that has maps."""

    def __init__(self, cfg: CfgNode, backbone: DiffusionBackbone, everywhere: bool = False):
        """
        Args:
            everywhere: whether to look at all cross-attention layers, and not at those whose maps
                a head receives. The backbone then serves no head any more.

        Raises:
            UserError: the config switches the maps off.
        """
        self.levels = sorted(cfg.MODEL.DIFFUSION.ATTENTION_MAPS.LEVELS)
        if everywhere:
            self.levels = backbone.unet.record_all()
        elif not self.levels:
            raise UserError(
                "MODEL.DIFFUSION.ATTENTION_MAPS.LEVELS is empty: this model keeps no maps"
            )
        self._cfg = cfg
        self._backbone = backbone

    @torch.no_grad()
    def __call__(self, pixels: np.ndarray, prompt: Prompt) -> dict[str, Tensor]:
        """
        Args:
            pixels: H x W x 3, uint8 RGB. It is prepared as in an evaluation, whole: in windows
                each would have maps of its own.

        Returns:
            level, and "mean" -> W x h x w on the CPU, W words; probabilities, 0 to 1. The mean has
            the size of the finest level. Where the prepared image was padded at its right and
            lower side for the UNet, that part is cut off.
        """
        image = prepare(pixels, self._cfg).to(self._cfg.MODEL.DEVICE)
        mean, std = (
            torch.tensor(values, device=image.device).view(-1, 1, 1)
            for values in (self._cfg.MODEL.PIXEL_MEAN, self._cfg.MODEL.PIXEL_STD)
        )
        batch = ImageList.from_tensors([(image - mean) / std], self._backbone.size_divisibility)
        with self._backbone.conditioned(prompt.context):
            features = self._backbone(batch.tensor)
        tokens = prompt.context.embeddings.shape[1]
        maps = {
            level: join_words(self._of_tokens(features[level][0], tokens), prompt.words).cpu()
            for level in self.levels
        }
        maps[MEAN] = average(maps.values())
        # The shares of the padded image that are image.
        rows, columns = (
            own / padded
            for own, padded in zip(image.shape[1:], batch.tensor.shape[2:], strict=True)
        )
        return {level: _cut(level_maps, rows, columns) for level, level_maps in maps.items()}

    def _of_tokens(self, features: Tensor, tokens: int) -> Tensor:
        """The maps behind the features' channels, one for each token; self-attention follows."""
        behind = features[0].numel() if self._backbone.unet.maps.self_attention else 0
        end = len(features) - behind
        return features[end - tokens : end]


def average(maps: Iterable[Tensor]) -> Tensor:
    """The mean of W x h x w maps, all enlarged to the size of the largest (TADP, figure 4)."""
    maps = list(maps)
    size = max((level.shape[1:] for level in maps), key=lambda size: size.numel())
    enlarged = [F.interpolate(m[None], tuple(size), mode="bilinear")[0] for m in maps]
    return torch.stack(enlarged).mean(dim=0)


def _cut(maps: Tensor, rows: float, columns: float) -> Tensor:
    height, width = maps.shape[1:]
    return maps[:, : round(height * rows), : round(width * columns)]


def load_untrained(cfg: CfgNode) -> DiffusionBackbone:
    """The backbone as training begins: the diffusion model itself.

    Raises:
        UserError: as `load_backbone`.
    """
    return load_backbone(cfg).eval().to(cfg.MODEL.DEVICE)


def load_captions_conditioner(cfg: CfgNode) -> CaptionPrompt:
    """What makes prompts and contexts of captions, in the mode of testing."""
    return CaptionPrompt.from_config(cfg, open_model_of(cfg)).eval().to(cfg.MODEL.DEVICE)


def compare(
    cfg: CfgNode,
    pixels: np.ndarray,
    make: Callable[[CaptionPrompt | TextAdapter], Mapping[str, Prompt]],
    reads: str = "caption",
    everywhere: bool = False,
) -> tuple[dict[str, Prompt], dict[str, dict[str, dict[str, Tensor]]]]:
    """
    Args:
        everywhere: whether the maps are the averages over all cross-attention layers, heads and
            levels (TADP, figure 4: "for different heads at all different scales"), "mean" alone.
        make: prompts, by the conditioner of texts with the key `reads`: the model's own, trained or
            not, if it reads such texts, else that of captions.

    Returns:
        The prompts; prompt -> "before training", and "after training" if there are weights ->
        level -> maps.

    Raises:
        UserError: as `load_untrained` and `load_model`, or the model reads no text.
    """
    if not get_conditioner_class(cfg).conditions:
        raise UserError(
            f"MODEL.CONDITIONER.NAME is {cfg.MODEL.CONDITIONER.NAME}: this model reads no text, "
            "and so looks for no word"
        )
    states = {"before training": _untrained}
    if cfg.MODEL.WEIGHTS:
        states["after training"] = _trained
    prompts: dict[str, Prompt] = {}
    found: dict[str, dict[str, dict[str, Tensor]]] = {}
    for state, load in states.items():
        # One after the other: two diffusion models would take twice the memory.
        backbone, own = load(cfg)
        probe = AttentionProbe(cfg, backbone, everywhere)
        prompts = dict(make(own if reads in needed_texts(cfg) else load_captions_conditioner(cfg)))
        for name, prompt in prompts.items():
            maps = probe(pixels, prompt)
            found.setdefault(name, {})[state] = {MEAN: maps[MEAN]} if everywhere else maps
    return prompts, found


def _untrained(cfg: CfgNode) -> tuple[DiffusionBackbone, Conditioner]:
    return load_untrained(cfg), build_conditioner(cfg).eval().to(cfg.MODEL.DEVICE)


def _trained(cfg: CfgNode) -> tuple[DiffusionBackbone, Conditioner]:
    model = load_model(cfg)
    return find_diffusion_backbone(model), model.conditioner
