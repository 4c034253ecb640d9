"""An optimizer whose state is divided among the processes of a run.

Rajbhandari et al., "ZeRO: Memory Optimizations Toward Training Trillion Parameter Models",
section 5.1. Each process updates its share of the parameters and sends it to the others. The
numbers are those of the same optimizer in every process.
"""

import itertools
from collections.abc import Sequence
from typing import Any

import torch
from detectron2.utils import comm
from torch import Tensor, distributed
from torch.optim import Optimizer


def sharded(kind: type[Optimizer]) -> type[Optimizer]:
    """`kind`, divided among the processes. It keeps its state by parameter, as AdamW does."""
    return type(f"Sharded{kind.__name__}", (_Sharded, kind), {})


class _Sharded(Optimizer):
    """What it adds to the class behind it; in a run of one process nothing."""

    def __init__(self, *args: Any, **options: Any):
        super().__init__(*args, **options)
        sizes = [parameter.numel() for parameter in self._parameters()]
        self._shares = divide(sizes, comm.get_world_size())

    def _parameters(self) -> list[Tensor]:
        """In the order of their indices in a state dict."""
        return [parameter for group in self.param_groups for parameter in group["params"]]

    def step(self, closure: None = None) -> None:
        """As of the class behind it; all processes call it, with equal gradients."""
        parameters = self._parameters()
        gradients = [parameter.grad for parameter in parameters]
        own = set(self._shares[comm.get_rank()])
        for index, parameter in enumerate(parameters):
            if index not in own:
                parameter.grad = None  # which leaves it out
        super().step()
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        if comm.get_world_size() > 1:
            sent = [
                distributed.broadcast(parameters[index].detach(), src=rank, async_op=True)
                for rank, share in enumerate(self._shares)
                for index in share
            ]
            for exchange in sent:
                exchange.wait()

    def state_dict(self) -> dict[str, Any]:
        """In the main process that of the class behind it, with the state of all parameters.

        All processes call it; in the others the state is empty. What is gathered lies in main
        memory, tensor by tensor, so that no GPU needs room for it.
        """
        found = super().state_dict()
        own, rank = found["state"], comm.get_rank()
        whole = {}
        # Each share begins with its largest, so that those that come together are of like size.
        for indices in itertools.zip_longest(*self._shares):
            index = indices[rank]
            gathered = comm.gather((index, _in_main_memory(own.get(index))))
            whole |= {index: state for index, state in gathered if state is not None}
        return {**found, "state": dict(sorted(whole.items()))}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """
        Args:
            state_dict: of the class behind it, or of one that any number of processes shared.
        """
        own = set(self._shares[comm.get_rank()])
        states = {index: state for index, state in state_dict["state"].items() if index in own}
        super().load_state_dict({**state_dict, "state": states})


def divide(sizes: Sequence[int], shares: int) -> list[list[int]]:
    """The indices of each of so many shares of nearly equal sums, in each the largest first."""
    divided, sums = [[] for _ in range(shares)], [0] * shares
    for index in sorted(range(len(sizes)), key=lambda index: -sizes[index]):
        smallest = sums.index(min(sums))
        divided[smallest].append(index)
        sums[smallest] += sizes[index]
    return divided


def _in_main_memory(state: Any) -> Any:
    if isinstance(state, dict):
        return {name: _in_main_memory(value) for name, value in state.items()}
    return state.cpu() if isinstance(state, torch.Tensor) else state
