"""The caption of an image in the words of a modifier: caption -> prompt -> context."""

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from fvcore.common.config import CfgNode
from torch import Tensor

from tadp_d2.conditioning.conditioner import (
    CONDITIONER_REGISTRY,
    Condition,
    Conditioner,
    read_text,
)
from tadp_d2.conditioning.domains import PLACEHOLDER, SLOT, Modifier, get_modifier
from tadp_d2.diffusion.clip_text import PromptEncoder
from tadp_d2.diffusion.clip_tokenizer import find_normalization
from tadp_d2.diffusion.diffusion_model import DiffusionModel
from tadp_d2.diffusion.tokens import expand_tokens, find_unknown
from tadp_d2.errors import UserError


@CONDITIONER_REGISTRY.register()
class CaptionPrompt(Conditioner):
    """Caption -> modifier of the mode (training or testing) -> prompt -> context (TADP, section 3).

    Each input has "caption": the image's caption before the modifier.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"caption"})

    def __init__(self, text: PromptEncoder, train_modifier: Modifier, test_modifier: Modifier):
        """
        Raises:
            UserError: a modifier uses a token that the text encoder does not know.
        """
        super().__init__()
        for modifier in (train_modifier, test_modifier):
            check_modifier(modifier, text)
        self.text = text
        self.train_modifier = train_modifier
        self.test_modifier = test_modifier

    @classmethod
    def from_config(cls, cfg: CfgNode, model: DiffusionModel) -> "CaptionPrompt":
        return cls(load_text(cfg, model), *get_modifiers(cfg))

    @classmethod
    def count_tokens(cls, cfg: CfgNode, model: DiffusionModel) -> int:
        return model.text_length

    @classmethod
    def reads_prompts(cls, cfg: CfgNode) -> bool:
        return True

    @classmethod
    def check_config(cls, cfg: CfgNode) -> None:
        get_modifiers(cfg)
        find_normalization(cfg.TEXT.NORMALIZATION)

    def forward(
        self, inputs: Sequence[Mapping[str, Any]], images: Tensor, latents: Tensor
    ) -> Condition:
        return Condition(self.text([self.prompt(own) for own in inputs]))

    def prompt(self, inputs: Mapping[str, Any]) -> str:
        """The prompt of an input in the current mode."""
        modifier = self.train_modifier if self.training else self.test_modifier
        return make_prompt(self.caption(inputs), modifier, self.text)

    def caption(self, inputs: Mapping[str, Any]) -> str:
        """What the modifier is put around."""
        return read_text(inputs, "caption")

    def provenance(self) -> dict[str, Any]:
        return {**self.text.provenance, "tokens": self.text.token_fingerprints}


def load_text(cfg: CfgNode, model: DiffusionModel) -> PromptEncoder:
    """The text encoder with the config's settings of texts.

    Raises:
        UserError: a file is absent or damaged.
    """
    return model.load_text_encoder(
        cfg.TEXT.TOKENS,
        cache_size=cfg.TEXT.CACHE_SIZE,
        normalization=cfg.TEXT.NORMALIZATION,
    )


def make_prompt(
    caption: str, modifier: Modifier, text: PromptEncoder, length: int | None = None
) -> str:
    """The prompt for a caption; what is not read is cut from the caption's end.

    It is cut by words, and inside a word only where that alone is longer than what is read.

    The modifier is never cut (TADP leaves this open; its released code cuts the prompt's end).

    Args:
        length: of the prompt, tokens with those of begin and end; None for all that CLIP reads.

    Raises:
        UserError: the modifier alone is longer than the text encoder reads.
    """
    length = length or text.length
    # Of the modifier alone: a caption's words are its image's, whatever they are.
    template = expand_tokens(modifier.template, text.tokenizer)

    def fill(words: Sequence[str]) -> str:
        return template.replace(SLOT, " ".join(words)).strip()

    def excess(words: Sequence[str]) -> int:
        return len(text.tokenizer(fill(words), verbose=False).input_ids) - length

    words = text.normalize(caption).split()
    # A word is a token at least: further ones are never read.
    kept = words[:length]
    while excess(kept) > 0:
        if not kept:
            raise UserError(
                f"modifier {modifier.name!r} is {excess(kept)} tokens longer than the {length} "
                f"that the text encoder reads: shorten {modifier.template!r}"
            )
        kept.pop()
    if len(kept) < len(words) and len(text.tokenizer(words[len(kept)]).input_ids) > length:
        # Of a word that no prompt has room for, such as a sentence without spaces, the beginning.
        word = words[len(kept)]
        read = bisect_right(range(len(word)), 0, key=lambda end: excess([*kept, word[:end]])) - 1
        kept += [word[:read]] if read else []
    return fill(kept)


def check_modifier(modifier: Modifier, text: PromptEncoder) -> None:
    """
    Raises:
        UserError: the modifier names a learned token that was not loaded, or leaves no room for a
            caption.
    """
    unknown = find_unknown(PLACEHOLDER.findall(modifier.template), text.tokenizer)
    if unknown:
        raise UserError(
            f"modifier {modifier.name!r} uses {', '.join(unknown)}, which the text encoder does "
            "not know: name the file of the learned token in TEXT.TOKENS"
        )
    make_prompt("", modifier, text)


def get_modifiers(cfg: CfgNode) -> tuple[Modifier, Modifier]:
    """The modifiers in training and in testing.

    Raises:
        UserError: one of them is unknown, or needs an artifact that the config does not name.
    """
    # An unquoted null of YAML is None, and means "null".
    same = cfg.TEXT.MODIFIER_TRAIN == ""
    test = get_modifier(cfg.TEXT.DOMAIN, cfg.TEXT.MODIFIER)
    train = test if same else get_modifier(cfg.TEXT.DOMAIN, cfg.TEXT.MODIFIER_TRAIN)
    for modifier in (train, test):
        if modifier.needs == "token" and not cfg.TEXT.TOKENS:
            raise UserError(
                f"modifier {modifier.name!r} needs a learned token: name its learned_embeds file "
                "in TEXT.TOKENS"
            )
        if modifier.needs == "unet" and not cfg.MODEL.DIFFUSION.UNET:
            raise UserError(
                f"modifier {modifier.name!r} needs a fine-tuned UNet: name its folder in "
                "MODEL.DIFFUSION.UNET"
            )
    return train, test
