"""The caption of an image in the words of a modifier: caption -> prompt -> context."""

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
from tadp_d2.diffusion.clip_text import TextEncoder
from tadp_d2.diffusion.diffusion_model import DiffusionModel
from tadp_d2.diffusion.tokens import expand_tokens
from tadp_d2.errors import UserError


@CONDITIONER_REGISTRY.register()
class CaptionPrompt(Conditioner):
    """Caption -> modifier of the mode (training or testing) -> prompt -> context (TADP, section 3).

    Each input has "caption": the image's caption before the modifier.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"caption"})

    def __init__(self, text: TextEncoder, train_modifier: Modifier, test_modifier: Modifier):
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
        train_modifier, test_modifier = get_modifiers(cfg)
        text = model.load_text_encoder(cfg.TEXT.TOKENS, cfg.TEXT.CACHE_SIZE)
        return cls(text, train_modifier, test_modifier)

    @classmethod
    def count_tokens(cls, cfg: CfgNode, model: DiffusionModel) -> int:
        return model.text_length

    @classmethod
    def check_config(cls, cfg: CfgNode) -> None:
        get_modifiers(cfg)

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


def make_prompt(caption: str, modifier: Modifier, text: TextEncoder) -> str:
    """The prompt for a caption; what CLIP cannot read is cut from the caption's end, by words.

    The modifier is never cut (TADP leaves this open; its released code cuts the prompt's end).

    Raises:
        UserError: the modifier alone is longer than the text encoder reads.
    """
    # A word is a token at least: further ones are never read.
    words = caption.split()[: text.length]
    while True:
        filled = modifier.template.replace(SLOT, " ".join(words)).strip()
        prompt = expand_tokens(filled, text.tokenizer)
        excess = len(text.tokenizer(prompt, verbose=False).input_ids) - text.length
        if excess <= 0:
            return prompt
        if not words:
            raise UserError(
                f"modifier {modifier.name!r} is {excess} tokens longer than the {text.length} that "
                f"the text encoder reads: shorten {modifier.template!r}"
            )
        words.pop()


def check_modifier(modifier: Modifier, text: TextEncoder) -> None:
    """
    Raises:
        UserError: the modifier names a learned token that was not loaded, or leaves no room for a
            caption.
    """
    unknown = set(PLACEHOLDER.findall(modifier.template)) - set(text.tokenizer.get_vocab())
    if unknown:
        raise UserError(
            f"modifier {modifier.name!r} uses {', '.join(sorted(unknown))}, which the text encoder "
            "does not know: name the file of the learned token in TEXT.TOKENS"
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
