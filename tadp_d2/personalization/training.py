"""The loop: steps, what is watched on the way, and a state from which it goes on bit by bit."""

import contextlib
import math
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.tensorboard import SummaryWriter

from tadp_d2.errors import UserError
from tadp_d2.files import saving
from tadp_d2.personalization.objective import Objective
from tadp_d2.personalization.output import OutputFolder
from tadp_d2.personalization.samples import SampleSheet


@dataclass(frozen=True)
class Watch:
    """How often one looks, in steps; 0 for never. It has no influence on what is learned.

    Attributes:
        evaluate: measure the loss on the fixed set.
        sample: draw images.
        save: write the checkpoint.
        sample_steps: of the sampler.
        sample_prompts: what to draw; empty for the method's own.
    """

    evaluate: int = 100
    sample: int = 250
    save: int = 100
    sample_steps: int = 25
    sample_prompts: tuple[str, ...] = ()

    def check(self) -> None:
        """
        Raises:
            UserError: a value is out of range.
        """
        for name in ("evaluate", "sample", "save"):
            if getattr(self, name) < 0:
                raise UserError(f"--{name}-every {getattr(self, name)}: expected 0 or more")
        if self.sample_steps < 1:
            raise UserError(f"--sample-steps {self.sample_steps}: expected at least 1")


class _Diverged(Exception):
    """A loss or a gradient that is no number."""


class TrainingState:
    """An objective with its optimizer and everything else that a step changes."""

    def __init__(self, objective: Objective):
        settings = objective.settings
        self.objective = objective
        self.settings = settings
        self.optimizer = objective.optimizer_type(
            objective.parameters, lr=settings.rate, weight_decay=settings.weight_decay
        )
        self.scaler = torch.amp.GradScaler(enabled=settings.precision == "fp16")
        # On the CPU whatever the device: it decides on images, crops, noise and time steps.
        self.generator = torch.Generator().manual_seed(settings.seed)
        self.step = 0
        self.losses: list[float] = []
        self.watched: dict[int, float] = {}

    def state(self) -> dict[str, Any]:
        """All that a step changes; of tensors, numbers, texts, lists and dicts only."""
        return {
            "step": self.step,
            "parameters": [p.detach() for p in self.objective.parameters],
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "losses": self.losses,
            "watched": self.watched,
            **self._random_state(),
        }

    def load(self, state: dict[str, Any]) -> None:
        """Goes on where `state` was taken."""
        self.step = state["step"]
        with torch.no_grad():
            for parameter, value in zip(
                self.objective.parameters, state["parameters"], strict=True
            ):
                parameter.copy_(value)
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        self.losses = state["losses"]
        self.watched = state["watched"]
        self._load_random_state(state)

    def _random_state(self) -> dict[str, Any]:
        return {
            "generator": self.generator.get_state(),
            "orders": [list(source.crops.order) for source in self.objective.sources],
        }

    def _load_random_state(self, state: dict[str, Any]) -> None:
        self.generator.set_state(state["generator"])
        for source, order in zip(self.objective.sources, state["orders"], strict=True):
            source.crops.order = list(order)

    def advance(self) -> float:
        """One step; returns its loss.

        Raises:
            UserError: the loss or the gradient is no number. Nothing has changed then.
        """
        before = self._random_state()
        try:
            loss = self._backward()
            self._check_gradient()
        except _Diverged as problem:
            names = ", ".join(source.names() for source in self.objective.sources if source.last)
            self._load_random_state(before)
            self.optimizer.zero_grad()
            raise UserError(
                f"step {self.step + 1}: {problem}, on {names}; the state after step {self.step} "
                "is kept. Start anew with a lower --rate, or with --precision fp32 or bf16"
            ) from None
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()
        self.step += 1
        self.losses.append(loss)
        return loss

    def _backward(self) -> float:
        total = 0.0
        for _ in range(self.settings.accumulation):
            with self.objective.model.autocast(self.settings.precision):
                loss = self.objective.loss(self.generator) / self.settings.accumulation
            if not math.isfinite(loss.item()):
                raise _Diverged(f"the loss is {loss.item()}")
            self.scaler.scale(loss).backward()
            total += loss.item()
        return total

    def _check_gradient(self) -> None:
        self.scaler.unscale_(self.optimizer)
        limit = self.settings.clip or math.inf
        norm = torch.nn.utils.clip_grad_norm_(self.objective.parameters, limit).item()
        # The scaler of fp16 skips such steps, and tries the next with a smaller scale.
        if not math.isfinite(norm) and not self.scaler.is_enabled():
            raise _Diverged(f"the norm of the gradient is {norm}")


def train(
    objective: Objective,
    output: OutputFolder,
    watch: Watch,
    progress: Callable[[int, int], None] | None = None,
) -> TrainingState:
    """Trains to the end, from the folder's checkpoint if there is one.

    Args:
        progress: called with the number of steps done and to do in this process.

    Raises:
        UserError: the loss is no number, or the disk is full; the last good state is saved.
    """
    training = TrainingState(objective)
    state = output.load()
    if state:
        training.load(state)
    start, steps = training.step, training.settings.steps
    prompts = watch.sample_prompts or objective.sample_prompts
    sheet = SampleSheet(output.path, prompts, watch.sample_steps, training.settings)
    with saving(output.path), _scalars(output, start) as writer:
        _look(training, watch, sheet, writer)
        while training.step < steps:
            _advance_or_save(training, output)
            writer.add_scalar("loss", training.losses[-1], training.step)
            _look(training, watch, sheet, writer)
            if _due(watch.save, training.step) or training.step == steps:
                # What is logged of the steps before a save must not be lost when one is killed.
                writer.flush()
                output.save(training.state())
            if progress:
                progress(training.step - start, steps - start)
    return training


def _advance_or_save(training: TrainingState, output: OutputFolder) -> None:
    try:
        training.advance()
    except UserError:
        output.save(training.state())
        raise


def _look(training: TrainingState, watch: Watch, sheet: SampleSheet, writer: SummaryWriter) -> None:
    step, last = training.step, training.step == training.settings.steps
    if watch.evaluate and (last or _due(watch.evaluate, step)) and step not in training.watched:
        training.watched[step] = training.objective.watched_loss()
        writer.add_scalar("loss on the fixed set", training.watched[step], step)
        print(f"step {step}: loss {training.watched[step]:.4f} on the fixed set", file=sys.stderr)
    if watch.sample and (last or _due(watch.sample, step)):
        sheet.add_row(training.objective.model, step)


def _due(every: int, step: int) -> bool:
    return every > 0 and step % every == 0


@contextlib.contextmanager
def _scalars(output: OutputFolder, start: int) -> Iterator[SummaryWriter]:
    # What a killed run had logged beyond its last checkpoint is logged again.
    writer = SummaryWriter(output.path / "tensorboard", purge_step=start + 1 if start else None)
    try:
        yield writer
    finally:
        writer.close()
