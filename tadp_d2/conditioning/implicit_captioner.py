"""ODISE's implicit captioner: the image, as CLIP embeds it, in the place of a caption."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from fvcore.common.config import CfgNode
from torch import Tensor, nn

from tadp_d2.conditioning.conditioner import CONDITIONER_REGISTRY, Condition, Conditioner
from tadp_d2.conditioning.image_encoder import ImageEncoder
from tadp_d2.diffusion.clip_text import TextEncoder
from tadp_d2.diffusion.diffusion_model import Context, DiffusionModel


@CONDITIONER_REGISTRY.register()
class ImplicitCaptioner(Conditioner):
    """context = that of the empty text + tanh(gate) * (linear(image embedding) + positions).

    Written from the description of ODISE (Xu et al. 2023, section 3.2). The gate, one number for
    each token and channel, is 0 at the start: training begins from the empty text.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"image"})

    def __init__(self, text: TextEncoder, image_encoder: ImageEncoder):
        """
        Args:
            text: read once, for the empty text; not kept.
        """
        super().__init__()
        with torch.no_grad():
            empty = text([""]).embeddings[0]
        self.text_fingerprint = text.base_fingerprint
        self.image_encoder = image_encoder
        self.register_buffer("empty", empty, persistent=False)
        self.linear = nn.Linear(image_encoder.embedding_width, empty.shape[1])
        self.positions = nn.Parameter(torch.randn_like(empty) * 0.02)
        self.gate = nn.Parameter(torch.zeros_like(empty))

    @classmethod
    def from_config(cls, cfg: CfgNode, model: DiffusionModel) -> "ImplicitCaptioner":
        return cls(model.load_text_encoder(), ImageEncoder.from_config(cfg))

    @classmethod
    def count_tokens(cls, cfg: CfgNode, model: DiffusionModel) -> int:
        return model.text_length

    def forward(
        self, inputs: Sequence[Mapping[str, Any]], images: Tensor, latents: Tensor
    ) -> Condition:
        embedding = self.linear(self.image_encoder(inputs).embedding).unsqueeze(1)
        context = self.empty + self.gate.tanh() * (embedding + self.positions)
        return Condition(Context(context))

    def provenance(self) -> dict[str, Any]:
        return {
            "text_encoder": self.text_fingerprint,
            **self.image_encoder.provenance,
        }

    def prompt(self, inputs: Mapping[str, Any]) -> str:
        return "the image itself, by CLIP's image encoder"
