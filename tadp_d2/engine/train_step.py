"""One training iteration: gradient accumulation, mixed precision, randomness of its own."""

import contextlib
import time
from collections.abc import Iterator

import torch
from detectron2.engine import SimpleTrainer
from detectron2.utils import comm
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer
from torch.utils.data import DataLoader

from tadp_d2.precision import autocast
from tadp_d2.randomness import derive_seed


class NonFiniteLoss(Exception):
    """A loss or a gradient is infinite or NaN; the weights are those before the iteration.

    Attributes:
        inputs: of the iteration, as the model got them.
    """

    def __init__(self, message: str, inputs: list[dict]):
        super().__init__(message)
        self.inputs = inputs


class AccumulatingTrainer(SimpleTrainer):
    """Detectron2's `SimpleTrainer` over several batches per iteration, in mixed precision.

    What an iteration draws at random depends on the seed, its number and the process alone. So
    images and their augmentation are the same for any number of processes; the anchors and
    proposals that a detector samples are not.

    The losses of the batches of an iteration, and of the processes, are averaged with equal
    weights. That equals the loss of one large batch only if each loss is a mean over equally many
    things: images in an RPN, sampled proposals in a box head, labeled pixels in segmentation.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        data_loader: DataLoader,
        optimizer: Optimizer,
        accumulation: int = 1,
        precision: str = "fp32",
        seed: int = 0,
    ):
        """
        Args:
            data_loader: read from the first iteration on; may be replaced before it.
            accumulation: batches whose gradients are averaged into one step of the optimizer.
            precision: of the forward pass: "fp32", "bf16", or "fp16", which scales the loss.
        """
        # Detectron2 would start the loader's workers at once.
        super().__init__(model, [], optimizer)
        self.data_loader = data_loader
        self._batches: Iterator[list[dict]] | None = None
        self._waiting_since: float | None = None
        self._seed = seed
        self._accumulation = accumulation
        self._device = next(model.parameters()).device.type
        self._precision = precision
        # As the scaler of fp16 asks it of fused optimizers.
        self._leaves_out = getattr(optimizer, "_step_supports_amp_scaling", False)
        self.grad_scaler = torch.amp.GradScaler(self._device, enabled=precision == "fp16")

    def run_step(self) -> None:
        """Runs one iteration and logs the mean losses of its batches.

        Raises:
            NonFiniteLoss: before the weights are changed.
        """
        if self._batches is None:
            self._batches = iter(self.data_loader)
        # Behind the loader's start, which draws a number.
        torch.manual_seed(derive_seed("iteration", self._seed, self.iter, comm.get_rank()))
        self.optimizer.zero_grad()
        data_time, totals, inputs = 0.0, {}, []
        for index in range(self._accumulation):
            start = time.perf_counter()
            batch = self._next_batch(start)
            data_time += time.perf_counter() - start
            inputs += batch
            for name, loss in self._backward(batch, last=index + 1 == self._accumulation).items():
                totals[name] = totals.get(name, 0) + loss
        finite = self._find_finite(totals)
        if self.grad_scaler.is_enabled() or not self._leaves_out:
            self._check_finite(finite, totals, inputs)
            # Before the step, because clipping inside of it must see the gradients' true size.
            self.grad_scaler.unscale_(self.optimizer)
            self.grad_scaler.step(self.optimizer)
            self.grad_scaler.update()
        else:
            # The device leaves the step out by itself. To ask it before would make it wait for
            # all that the optimizer does in Python.
            self.optimizer.found_inf = (~finite.all()).float()
            self.optimizer.step()
            del self.optimizer.found_inf
            self._check_finite(finite, totals, inputs)
        self._write_metrics(totals, data_time)

    def _next_batch(self, start: float) -> list[dict]:
        self._waiting_since = start
        try:
            return next(self._batches)
        finally:
            self._waiting_since = None

    def waited(self) -> float:
        """Seconds that it has been waiting for the present batch; 0 if it is not waiting."""
        since = self._waiting_since
        return 0 if since is None else time.perf_counter() - since

    def _find_finite(self, losses: dict[str, torch.Tensor]) -> torch.Tensor:
        """Whether the gradients are finite, and whether the losses are, on the device."""
        gradients = [
            weight.grad
            for group in self.optimizer.param_groups
            for weight in group["params"]
            if weight.grad is not None
        ]
        norm = torch.nn.utils.get_total_norm(gradients)
        total = torch.stack([loss.float() for loss in losses.values()])
        return torch.stack([norm.isfinite().to(total.device), total.isfinite().all()])

    def _check_finite(
        self, found: torch.Tensor, losses: dict[str, torch.Tensor], inputs: list[dict]
    ) -> None:
        finite, own_finite = found.tolist()
        # Scaled fp16 gradients may overflow: the scaler then leaves the step out. Others are equal
        # in all processes, so that all stop.
        finite = finite or self.grad_scaler.is_enabled()
        if not finite and own_finite:
            # A process whose loss shows the cause ends here, and this one with it.
            comm.all_gather(None)
        if not finite or not own_finite:
            values = ", ".join(f"{name} {loss.item():g}" for name, loss in losses.items())
            raise NonFiniteLoss(values, inputs)

    def _backward(self, batch: list[dict], last: bool) -> dict[str, torch.Tensor]:
        """Adds a batch's share to the gradients; returns its share of the losses."""
        distributed = isinstance(self.model, DistributedDataParallel)
        # Gradients are exchanged between processes once, with the last batch.
        wait = self.model.no_sync() if distributed and not last else contextlib.nullcontext()
        with wait:
            with autocast(self._device, self._precision):
                losses = self.model(batch)
            losses = {name: loss / self._accumulation for name, loss in losses.items()}
            self.grad_scaler.scale(sum(losses.values())).backward()
        return {name: loss.detach() for name, loss in losses.items()}

    def state_dict(self) -> dict:
        return {**super().state_dict(), "grad_scaler": self.grad_scaler.state_dict()}

    def load_state_dict(self, state_dict: dict) -> None:
        super().load_state_dict(state_dict)
        self.grad_scaler.load_state_dict(state_dict["grad_scaler"])
