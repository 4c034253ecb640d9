"""Low-rank updates of a frozen network: what is trained and saved is small (LoRA).

Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", section 4.1.
"""

import math
import re
from collections.abc import Collection, Sequence
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.nn.utils import parametrize

from tadp_d2.errors import UserError
from tadp_d2.frozen import tensors_of

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


def train_low_rank(network: nn.Module, rank: int, whole: Sequence[nn.Module] = ()) -> None:
    """Freezes a network and adds updates of low rank to the projections of its attention layers.

    The updates, and what is trained as a whole, are all that is trained and all that a checkpoint
    of the network holds. A pass computes with the sum of weights and updates, in training as in
    testing, so there is nothing to merge.

    Args:
        network: whose weights a checkpoint need not hold, since they come with the base model.
        rank: of the updates, 1 or more.
        whole: parts of the network that are no part of the base model.

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
    for part in whole:
        part.requires_grad_(True)
    updates = [part for part in network.modules() if isinstance(part, LowRankUpdate)]
    trained = {id(tensor) for part in (*updates, *whole) for tensor in tensors_of(part).values()}
    # By name: whoever freezes the updates later, for a test, still has them in checkpoints.
    base = [name for name, tensor in tensors_of(network).items() if id(tensor) not in trained]
    network.register_state_dict_post_hook(partial(_drop, base))
    network.register_load_state_dict_pre_hook(partial(_keep, base))


def _drop(base: Collection[str], _: nn.Module, state: dict, prefix: str, *__: Any) -> None:
    for name in base:
        state.pop(prefix + name, None)


def _keep(base: Collection[str], network: nn.Module, state: dict, prefix: str, *_: Any) -> None:
    own = tensors_of(network)
    state.update({prefix + name: own[name].detach() for name in base})
