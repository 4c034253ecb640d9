"""Low-rank updates of a frozen network: what is trained and saved is small (LoRA).

Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", section 4.1.
"""

import math
import re
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from tadp_d2.errors import UserError

# The projections of diffusers' attention layers, as LoRA files of Stable Diffusion have them.
_PROJECTIONS = re.compile(r"\bto_(q|k|v|out\.0)$")


class LowRankUpdate(nn.Module):
    """weight -> weight + up @ down; nothing is changed before the first step, since up is 0."""

    def __init__(self, weight: Tensor, rank: int):
        """
        Args:
            weight: out x in.
        """
        super().__init__()
        outputs, inputs = weight.shape
        self.down = nn.Parameter(weight.new_empty(rank, inputs))
        self.up = nn.Parameter(weight.new_zeros(outputs, rank))
        nn.init.kaiming_uniform_(self.down, a=math.sqrt(5))

    def forward(self, weight: Tensor) -> Tensor:
        return weight + self.up @ self.down


def train_low_rank(network: nn.Module, rank: int) -> None:
    """Freezes a network and adds updates of low rank to the projections of its attention layers.

    The updates are all that is trained and all that a checkpoint of the network holds. A pass
    computes with the sum of both, in training as in testing, so there is nothing to merge.

    Args:
        network: whose weights a checkpoint need not hold, since they come with the base model.
        rank: of the updates, 1 or more.

    Raises:
        UserError: the network has no such layers.
    """
    network.requires_grad_(False)
    layers = [
        layer
        for name, layer in network.named_modules()
        if isinstance(layer, nn.Linear) and _PROJECTIONS.search(name)
    ]
    if not layers:
        raise UserError(
            "MODEL.DIFFUSION.LORA_RANK: this base model has no attention layers of diffusers' "
            "names (to_q, to_k, to_v, to_out); set it to 0"
        )
    for layer in layers:
        parametrize.register_parametrization(layer, "weight", LowRankUpdate(layer.weight, rank))
    network.register_state_dict_post_hook(_drop_frozen)
    network.register_load_state_dict_pre_hook(_keep_frozen)


def _frozen(network: nn.Module, prefix: str) -> dict[str, Tensor]:
    tensors = (*network.named_parameters(), *network.named_buffers())
    return {prefix + name: tensor for name, tensor in tensors if not tensor.requires_grad}


def _drop_frozen(network: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    for name in _frozen(network, prefix):
        state.pop(name, None)


@torch.no_grad()
def _keep_frozen(network: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    state.update(_frozen(network, prefix))
