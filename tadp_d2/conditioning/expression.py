"""VPD's text in referring segmentation: the expression is the prompt (VPD, section 4)."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from fvcore.common.config import CfgNode
from torch import Tensor, nn

from tadp_d2.conditioning.caption_prompt import (
    CaptionPrompt,
    get_modifiers,
    load_text,
    make_prompt,
)
from tadp_d2.conditioning.conditioner import (
    CONDITIONER_REGISTRY,
    Condition,
    open_model_of,
    read_text,
)
from tadp_d2.conditioning.domains import SLOT, Modifier
from tadp_d2.diffusion.clip_text import PromptEncoder
from tadp_d2.diffusion.diffusion_model import DiffusionModel
from tadp_d2.diffusion.tokens import expand_tokens
from tadp_d2.errors import Report, UserError, reporting


@CONDITIONER_REGISTRY.register()
class Expression(CaptionPrompt):
    """Expression -> modifier of the mode -> prompt -> context.

    Each input has "expression". A modifier has it where a caption would be, in `{caption}`.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"expression"})

    def __init__(
        self,
        text: PromptEncoder,
        train_modifier: Modifier,
        test_modifier: Modifier,
        length: int = 0,
        attend_padding: bool = True,
        vector_width: int = 0,
    ):
        """
        Args:
            length: N, tokens of a context; 0 for all that the text encoder reads.
            attend_padding: whether what is behind the end of a prompt is attended to.
            vector_width: D, of the contexts, if each token of the vocabulary has a trained vector
                that is added where it occurs; 0 for none. They begin as 0.

        Raises:
            UserError: as `CaptionPrompt`, or the text encoder reads fewer tokens.
        """
        super().__init__(text, train_modifier, test_modifier)
        if not text.one_token_each and (length or not attend_padding or vector_width):
            raise UserError(
                f"MODEL.CONDITIONER.LENGTH is {length}, ATTEND_PADDING {attend_padding} and "
                f"WORD_VECTORS {bool(vector_width)}: the tokens of several text encoders are not "
                "those of the expression; expected 0, True and False"
            )
        self.length = _length(length, text.length)
        self.attend_padding = attend_padding
        self.vectors = nn.Embedding(len(text.tokenizer), vector_width) if vector_width else None
        if self.vectors:
            nn.init.zeros_(self.vectors.weight)

    @classmethod
    def from_config(cls, cfg: CfgNode, model: DiffusionModel) -> "Expression":
        options = cfg.MODEL.CONDITIONER
        text = load_text(cfg, model)
        width = model.context_width if options.WORD_VECTORS else 0
        return cls(text, *get_modifiers(cfg), options.LENGTH, options.ATTEND_PADDING, width)

    @classmethod
    def count_tokens(cls, cfg: CfgNode, model: DiffusionModel) -> int:
        return _length(cfg.MODEL.CONDITIONER.LENGTH, model.text_length)

    @classmethod
    def check_entries(
        cls, cfg: CfgNode, entries: Iterable[Mapping[str, Any]], training: bool, report: Report
    ) -> list[str]:
        """Empty expressions, and those that the text encoder cannot read to their end.

        Returns:
            How many are cut to `MODEL.CONDITIONER.LENGTH` tokens, as in VPD's released code.
        """
        conditioner = cls.from_config(cfg, open_model_of(cfg)).train(training)
        # Many an object is "the left man".
        of_text: dict[str, list[Mapping[str, Any]]] = {}
        for entry in entries:
            of_text.setdefault(entry["expression"], []).append(entry)
        cut: list[Mapping[str, Any]] = []
        for own in of_text.values():
            with reporting(report):
                if conditioner._check(own[0]) > conditioner.length:
                    cut += own
        if not cut:
            return []
        total = sum(map(len, of_text.values()))
        return [
            f"{len(cut)} of {total} expressions are longer than the {conditioner.length} tokens of "
            f"MODEL.CONDITIONER.LENGTH, and their ends are not read; such as, for image "
            f"{_image(cut[0])}, {cut[0]['expression'][:200]!r}"
        ]

    def forward(
        self, inputs: Sequence[Mapping[str, Any]], images: Tensor, latents: Tensor
    ) -> Condition:
        prompts = [self.prompt(own) for own in inputs]
        # The text encoder is causal: the padding that is cut does not reach what stays.
        context = self.text(prompts)
        if self.length < self.text.length:
            context = context._replace(embeddings=context.embeddings[:, : self.length])
        if self.vectors:
            tokens = self.text.tokenizer(
                prompts, padding="max_length", max_length=self.length, return_tensors="pt"
            ).input_ids.to(context.embeddings.device)
            context = context._replace(embeddings=context.embeddings + self.vectors(tokens))
        if self.attend_padding:
            return Condition(context)
        ends = torch.tensor([self._count(prompt) for prompt in prompts])
        mask = torch.arange(self.length) < ends[:, None]
        return Condition(context._replace(mask=mask.to(context.embeddings.device)))

    def prompt(self, inputs: Mapping[str, Any]) -> str:
        """The prompt of an input in the current mode.

        Raises:
            UserError: the expression is empty, or longer than the text encoder reads.
        """
        self._check(inputs)
        return make_prompt(inputs["expression"], self._modifier, self.text, self.length)

    @property
    def _modifier(self) -> Modifier:
        return self.train_modifier if self.training else self.test_modifier

    def _check(self, inputs: Mapping[str, Any]) -> int:
        """Tokens of the prompt, uncut, with those of begin and end."""
        expression = read_text(inputs, "expression")
        image = _image(inputs)
        if not expression.strip():
            raise UserError(f"the expression for image {image} is empty")
        template = expand_tokens(self._modifier.template, self.text.tokenizer)
        words = self.text.normalize(expression).split()
        count = self._count(template.replace(SLOT, " ".join(words)).strip())
        excess = count - self.text.length
        if excess > 0:
            raise UserError(
                f"the expression for image {image} is {excess} tokens longer than the "
                f"{self.text.length} that the text encoder reads: shorten {expression[:200]!r}"
            )
        return count

    def _count(self, prompt: str) -> int:
        return len(self.text.tokenizer(prompt, verbose=False).input_ids)


def _image(inputs: Mapping[str, Any]) -> Any:
    return inputs.get("file_name", inputs.get("image_id", "?"))


def _length(wanted: int, most: int) -> int:
    if wanted > most:
        raise UserError(
            f"MODEL.CONDITIONER.LENGTH is {wanted}, but the text encoder reads {most} tokens"
        )
    return wanted or most
