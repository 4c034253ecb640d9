"""Attention of the UNet: fused everywhere, explicit where the attention map is wanted.

The recorder of the maps is an argument of the pass that makes them, so nothing is left lying
around between passes.
"""

from diffusers.models.attention_processor import Attention
from torch import Tensor
from torch.nn import functional as F

from tadp_d2.precision import autocast


class AttentionMaps:
    """The attention maps of one forward pass, averaged over heads and layers per name.

    A name is the level of the layers for cross-attention, and `self_name(level)` for
    self-attention.
    """

    def __init__(self, gradient: bool = True):
        """
        Args:
            gradient: whether gradients flow through the maps. The paper trains on `V = A + F`
                without a word about it; the released code cuts it.
        """
        self._gradient = gradient
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}
        self._open = True

    def add(self, name: str, probabilities: Tensor) -> None:
        """Adds one layer's softmax probabilities, B x heads x HW x N.

        Once the maps were taken, further calls do nothing: gradient checkpointing runs the layers
        again in the backward pass.
        """
        if not self._open:
            return
        head_mean = probabilities.mean(1) if self._gradient else probabilities.detach().mean(1)
        self._sums[name] = self._sums[name] + head_mean if name in self._sums else head_mean
        self._counts[name] = self._counts.get(name, 0) + 1

    def take(self) -> dict[str, Tensor]:
        """Ends the recording and returns name -> mean over its layers, B x HW x N."""
        self._open = False
        return {name: total / self._counts[name] for name, total in self._sums.items()}


def self_name(level: str) -> str:
    """Name of the self-attention maps of a level."""
    return f"{level} self"


class FusedAttention:
    """diffusers attention processor: `scaled_dot_product_attention`, no map."""

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        attention_maps: AttentionMaps | None = None,
    ) -> Tensor:
        """Attends from `hidden_states`, B x HW x C, to `encoder_hidden_states`, B x N x D.

        Args:
            attention_mask: bias that is added to the scores, B x 1 x N.
            attention_maps: ignored; diffusers hands it to every layer.
        """
        query, key, value = _project(attn, hidden_states, encoder_hidden_states)
        bias = None if attention_mask is None else attention_mask.unsqueeze(1)
        out = F.scaled_dot_product_attention(query, key, value, attn_mask=bias)
        return _merge_heads(attn, out)


class RecordedAttention:
    """diffusers attention processor: explicit softmax, whose probabilities are recorded."""

    def __init__(self, name: str):
        """
        Args:
            name: of the maps that the layer's are averaged with.
        """
        self.name = name

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        attention_maps: AttentionMaps | None = None,
    ) -> Tensor:
        """As `FusedAttention`, and adds the probabilities to `attention_maps`."""
        query, key, value = _project(attn, hidden_states, encoder_hidden_states)
        scores = _scores(attn, query, key)
        if attention_mask is not None:
            scores = scores + attention_mask.unsqueeze(1)
        probabilities = scores.softmax(-1)
        if attention_maps is not None:
            attention_maps.add(self.name, probabilities)
        return _merge_heads(attn, probabilities.to(value.dtype) @ value)


def _scores(attn: Attention, query: Tensor, key: Tensor) -> Tensor:
    """Scaled scores before the softmax, B x heads x HW x N.

    Stable Diffusion 2.1 asks for them in fp32 (`upcast_attention`), also under autocast.
    """
    if not attn.upcast_attention:
        return (query * attn.scale) @ key.transpose(-1, -2)
    with autocast(query.device.type, "fp32"):
        return (query.float() * attn.scale) @ key.float().transpose(-1, -2)


def _project(
    attn: Attention, hidden_states: Tensor, encoder_hidden_states: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values, each B x heads x length x channels of a head."""
    source = hidden_states if encoder_hidden_states is None else encoder_hidden_states
    projected = attn.to_q(hidden_states), attn.to_k(source), attn.to_v(source)
    query, key, value = (x.unflatten(-1, (attn.heads, -1)).transpose(1, 2) for x in projected)
    return query, key, value


def _merge_heads(attn: Attention, out: Tensor) -> Tensor:
    projection, dropout = attn.to_out
    return dropout(projection(out.transpose(1, 2).flatten(2)))
