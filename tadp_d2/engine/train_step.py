"""One training iteration: gradient accumulation and mixed precision, on any device."""

import contextlib
import time

import torch
from detectron2.engine import SimpleTrainer
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer
from torch.utils.data import DataLoader

PRECISIONS = {"bf16": torch.bfloat16, "fp16": torch.float16}


class AccumulatingTrainer(SimpleTrainer):
    """Detectron2's `SimpleTrainer` over several batches per iteration, in mixed precision."""

    def __init__(
        self,
        model: torch.nn.Module,
        data_loader: DataLoader,
        optimizer: Optimizer,
        accumulation: int = 1,
        precision: torch.dtype | None = None,
    ):
        """
        Args:
            accumulation: batches whose gradients are averaged into one step of the optimizer.
            precision: of the forward pass; None for the weights' own. fp16 scales the loss.
        """
        super().__init__(model, data_loader, optimizer)
        self._accumulation = accumulation
        self._device = next(model.parameters()).device.type
        self._precision = precision
        self.grad_scaler = torch.amp.GradScaler(self._device, enabled=precision == torch.float16)

    def run_step(self) -> None:
        """Runs one iteration and logs the mean losses of its batches."""
        self.optimizer.zero_grad()
        data_time, totals = 0.0, {}
        for index in range(self._accumulation):
            start = time.perf_counter()
            batch = next(self._data_loader_iter)
            data_time += time.perf_counter() - start
            for name, loss in self._backward(batch, last=index + 1 == self._accumulation).items():
                totals[name] = totals.get(name, 0) + loss
        self._write_metrics(totals, data_time)
        # Before the step, because clipping inside of it must see the gradients' true size.
        self.grad_scaler.unscale_(self.optimizer)
        self.grad_scaler.step(self.optimizer)
        self.grad_scaler.update()

    def _backward(self, batch: list[dict], last: bool) -> dict[str, torch.Tensor]:
        """Adds a batch's share to the gradients; returns its share of the losses."""
        distributed = isinstance(self.model, DistributedDataParallel)
        # Gradients are exchanged between processes once, with the last batch.
        wait = self.model.no_sync() if distributed and not last else contextlib.nullcontext()
        with wait:
            with torch.autocast(
                self._device, dtype=self._precision, enabled=self._precision is not None
            ):
                losses = self.model(batch)
            losses = {name: loss / self._accumulation for name, loss in losses.items()}
            self.grad_scaler.scale(sum(losses.values())).backward()
        return {name: loss.detach() for name, loss in losses.items()}

    def state_dict(self) -> dict:
        return {**super().state_dict(), "grad_scaler": self.grad_scaler.state_dict()}

    def load_state_dict(self, state_dict: dict) -> None:
        super().load_state_dict(state_dict)
        self.grad_scaler.load_state_dict(state_dict["grad_scaler"])
