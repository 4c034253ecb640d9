"""Parts of a model that are used but never trained, and fingerprints of weights."""

import hashlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn


class Frozen(nn.Module):
    """Keeps a module in eval mode, without gradients and out of checkpoints.

    It moves between devices with its parent. `state_dict` leaves it out, and loading a state dict
    that lacks it reports nothing missing.
    """

    def __init__(self, module: nn.Module):
        super().__init__()
        self.module = module.requires_grad_(False)
        self.train(False)
        self.register_load_state_dict_pre_hook(_keep_own_weights)

    def train(self, mode: bool = True) -> "Frozen":
        return super().train(False)

    def state_dict(self, *args: Any, destination: dict | None = None, **kwargs: Any) -> dict:
        return {} if destination is None else destination

    @torch.no_grad()
    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.module(*args, **kwargs)


def _keep_own_weights(frozen: Frozen, state_dict: dict, prefix: str, *_: Any) -> None:
    own = frozen.module.state_dict(prefix=f"{prefix}module.")
    state_dict.update(own)


def tensors_of(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by name, also those that its state leaves out."""
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


def fingerprint(weights: nn.Module | Mapping[str, Tensor] | Tensor) -> str:
    """SHA-256 of names, shapes and fp32 values, whatever file the weights came from."""
    tensors = {"": weights} if isinstance(weights, Tensor) else weights
    if isinstance(tensors, nn.Module):
        tensors = tensors.state_dict()
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        array = tensor.detach().cpu().float().contiguous().numpy()
        digest.update(f"{name}{array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()
