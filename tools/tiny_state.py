"""The state of a tiny model's training: stopped and started again, it ends where it would have."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from tadp_d2.files import replacing


def save_state(path: Path, parts: Mapping[str, Any], losses: Sequence[float]) -> None:
    """
    Args:
        parts: by name what has a `state_dict`, such as a model and its optimizer.
        losses: of the steps so far.
    """
    states = {name: part.state_dict() for name, part in parts.items()}
    with replacing(path) as temporary:
        torch.save({**states, "random": torch.get_rng_state(), "losses": losses}, temporary)


def load_state(path: Path, parts: Mapping[str, Any], device: str) -> list[float]:
    """Brings the parts, and torch's random numbers, to where they were; returns the losses.

    Args:
        parts: those that were saved.
        device: of the parts.
    """
    state = torch.load(path, weights_only=True, map_location=device)
    for name, part in parts.items():
        part.load_state_dict(state[name])
    torch.set_rng_state(state["random"].cpu())
    return state["losses"]
