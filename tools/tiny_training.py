"""What the trainings of the tiny models share: options, what a stopped one goes on with, a loop."""

import argparse
import json
import os
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from tiny_batches import Batches, load

from tadp_d2.errors import UserError
from tadp_d2.files import replacing, sha256
from tadp_d2.progress import progress_line


def add_arguments(parser: argparse.ArgumentParser, steps: int, batch: int, rate: float) -> None:
    """
    Args:
        steps, batch, rate: defaults.
    """
    parser.add_argument("--images", type=int, default=6000)
    parser.add_argument("--steps", type=int, default=steps)
    parser.add_argument("--batch", type=int, default=batch)
    parser.add_argument("--rate", type=float, default=rate)
    parser.add_argument("--seed", type=int, default=5)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--workers", type=int, default=(os.cpu_count() or 2) - 1)
    parser.add_argument("--work", type=Path, default=Path("output/tiny_models"))


class Learner(ABC):
    """A model in training. Stopped and started again, it ends where it would have.

    Attributes:
        PARTS: names of its attributes that have a `state_dict`, such as a model and its optimizer.
        losses: of the steps so far; tensors until it is saved, so that no step waits for a GPU.
    """

    PARTS: ClassVar[tuple[str, ...]]

    def __init__(self, device: str):
        self.device = device
        self.losses: list[Any] = []

    @abstractmethod
    def update(self, batch: Any) -> None:
        """Makes a step."""

    def save(self, path: Path, made_of: str = "") -> None:
        """
        Args:
            made_of: what decides on the training.
        """
        self.losses = [float(loss) for loss in self.losses]
        states = {name: getattr(self, name).state_dict() for name in self.PARTS}
        with replacing(path) as temporary:
            torch.save({**states, "losses": self.losses, "made_of": made_of}, temporary)

    def load(self, path: Path, made_of: str = "") -> None:
        """
        Raises:
            UserError: the file is of another training.
        """
        state = torch.load(path, weights_only=True, map_location=self.device)
        if state.get("made_of") != made_of:
            raise UserError(
                f"{path}: a training of other options, {state.get('made_of')}, was stopped there, "
                f"and this one is of {made_of}; name another folder in --work"
            )
        for name in self.PARTS:
            getattr(self, name).load_state_dict(state[name])
        self.losses = state["losses"]


def _made_of(args: argparse.Namespace) -> str:
    """All options but those of the machine and of what is written; of folders their hashes."""
    machine = ("device", "workers", "work", "output")
    options = {name: value for name, value in vars(args).items() if name not in machine}
    for name, value in options.items():
        if isinstance(value, Path):
            found = sorted(value.rglob("*.safetensors"))
            options[name] = {str(file.relative_to(value)): sha256(file) for file in found}
    return json.dumps(options, sort_keys=True)


def train(
    learner: Learner,
    draw: Callable[[int], Any],
    state: Path,
    save_every: int,
    args: argparse.Namespace,
) -> None:
    """Makes the steps that are missing.

    Args:
        draw: as of `Batches`.
        state: file of what a stopped training goes on with.
        save_every: steps.
        args: as `add_arguments` declares them.
    """
    made_of = _made_of(args)
    if state.exists():
        learner.load(state, made_of)
    show = progress_line("steps")
    batches = Batches(draw, args.seed, args.steps)
    for batch in load(batches, len(learner.losses), args.workers, args.device):
        learner.update(batch)
        step = len(learner.losses)
        if step % save_every == 0:
            learner.save(state, made_of)
            print(f"step {step}: loss {np.mean(learner.losses[-save_every:]):.4f}", flush=True)
        show(step, args.steps)
    learner.losses = [float(loss) for loss in learner.losses]
