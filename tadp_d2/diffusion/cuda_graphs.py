"""A module's passes as CUDA graphs: kernels that were recorded once start again without Python.

Nothing is known here of what a module computes.
"""

import contextlib
import functools
import gc
import logging
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten

from tadp_d2.errors import UserError, reason

_logger = logging.getLogger(__name__)

# Kinds of passes that are recorded. Each keeps its memory; one with a gradient also gradients of
# all weights.
MOST = 4
# Passes before a recording, in which libraries choose and load their kernels.
_WARM_UPS = 3

Flat = Callable[[Sequence[Tensor]], tuple[Tensor, ...]]


@dataclass
class Recording:
    """A pass, and its gradient, in memory that stays: to start them reads and writes these tensors.

    Attributes:
        inputs: of the pass.
        outputs: of the pass.
        forward: starts the pass.
        given: gradients of the outputs; None for one that needs none.
        gradients: of the inputs, then of the trained weights; None where there is none.
        backward: starts the pass's gradient; None without one.
        passes: how many were started.
    """

    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    forward: Callable[[], None]
    given: tuple[Tensor | None, ...] = ()
    gradients: tuple[Tensor | None, ...] = ()
    backward: Callable[[], None] | None = None
    passes: int = 0


class GraphedPass:
    """Stands in for a module's `forward`: each kind of pass is recorded once and then replayed.

    A kind is all that decides on the kernels: shapes and types of the inputs, what needs a
    gradient, the precision of autocast, training or testing. Inputs may be tensors in tuples; what
    is no tensor belongs to the kind. Results are copies, as another pass overwrites those of the
    recording.
    """

    def __init__(
        self,
        module: nn.Module,
        compute: Callable[..., Any],
        record: "Callable[[nn.Module, Flat, Sequence[Tensor]], Recording] | None" = None,
        most: int = MOST,
    ):
        """
        Args:
            module: whose weights the pass reads.
            compute: the pass.
            record: records one; `record_on_gpu` by default.
            most: kinds that are recorded; further ones are computed as without graphs.
        """
        self._module, self._compute = module, compute
        self._record, self._most = record or record_on_gpu, most
        self._recordings: dict[Hashable, tuple[Recording, TreeSpec]] = {}
        self._weights: list[Tensor] = []
        self._trained: list[Tensor] = []
        self._places: tuple | None = None
        self._warned = False

    def __call__(self, *args: Any) -> Any:
        leaves, form = tree_flatten(args)
        tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        self._look_at_weights()
        kind = self._kind(leaves, form)
        if kind not in self._recordings:
            if len(self._recordings) >= self._most:
                self._warn(tensors)
                return self._compute(*args)
            self._recordings[kind] = self._make(leaves, form, tensors)
        recording, outputs = self._recordings[kind]
        trained = self._trained if recording.backward else []
        return tree_unflatten(list(_Replay.apply(recording, trained, *tensors, *trained)), outputs)

    def _look_at_weights(self) -> None:
        """Forgets all recordings if weights lie elsewhere than before, or others are trained."""
        if not self._weights:
            self._weights = [*self._module.parameters(), *self._module.buffers()]
        places = tuple((weight.data_ptr(), weight.requires_grad) for weight in self._weights)
        if places != self._places:
            self._recordings.clear()
            self._trained = [p for p in self._module.parameters() if p.requires_grad]
            self._places = places

    def _kind(self, leaves: Sequence[Any], form: TreeSpec) -> Hashable:
        device = next(leaf for leaf in leaves if isinstance(leaf, Tensor)).device.type
        return (
            repr(form),
            *(_describe(leaf) if isinstance(leaf, Tensor) else leaf for leaf in leaves),
            torch.is_grad_enabled(),
            torch.is_inference_mode_enabled(),
            torch.is_autocast_enabled(device) and torch.get_autocast_dtype(device),
            self._module.training,
            # Of the UNet, which may be asked for others later.
            repr(getattr(self._module, "maps", None)),
        )

    def _make(
        self, leaves: Sequence[Any], form: TreeSpec, tensors: Sequence[Tensor]
    ) -> tuple[Recording, TreeSpec]:
        forms = []

        def flat(own: Sequence[Tensor]) -> tuple[Tensor, ...]:
            rest = iter(own)
            inputs = [next(rest) if isinstance(leaf, Tensor) else leaf for leaf in leaves]
            outputs, found = tree_flatten(self._compute(*tree_unflatten(inputs, form)))
            forms.append(found)
            return tuple(outputs)

        name = type(self._module).__name__
        try:
            recording = self._record(self._module, flat, tensors)
        except (UserError, torch.OutOfMemoryError):
            raise
        except RuntimeError as error:
            raise UserError(
                f"MODEL.DIFFUSION.COMPILE asks for CUDA graphs, and a pass of {name} cannot be "
                f"recorded as one: {reason(error)}; leave the key empty"
            ) from error
        shapes = ", ".join(str(tuple(tensor.shape)) for tensor in tensors)
        _logger.info(f"Recorded a CUDA graph of {name} for inputs of {shapes}")
        return recording, forms[-1]

    def _warn(self, tensors: Sequence[Tensor]) -> None:
        if not self._warned:
            shapes = ", ".join(str(tuple(tensor.shape)) for tensor in tensors)
            _logger.warning(
                f"{self._most} kinds of passes of {type(self._module).__name__} are CUDA graphs "
                f"already: one of {shapes}, and all further ones, are computed without. Images of "
                "one size (INPUT.FIXED_SIZE_TRAIN, FIXED_SIZE_TEST, windows) need few"
            )
        self._warned = True


def _describe(tensor: Tensor) -> tuple:
    needs_gradient = tensor.requires_grad and torch.is_grad_enabled()
    return (tuple(tensor.shape), tensor.dtype, tensor.device, needs_gradient)


def _shares_memory(gradient: Tensor | None, own: Tensor) -> bool:
    return gradient is not None and gradient.data_ptr() == own.data_ptr()


class _Replay(torch.autograd.Function):
    """A recorded pass as one step of autograd."""

    @staticmethod
    def forward(
        ctx: Any, recording: Recording, trained: list[Tensor], *tensors: Tensor
    ) -> tuple[Tensor, ...]:
        for own, tensor in zip(recording.inputs, tensors, strict=False):
            own.copy_(tensor)
        recording.forward()
        recording.passes += 1
        ctx.recording, ctx.trained, ctx.number = recording, trained, recording.passes
        return tuple(output.clone() for output in recording.outputs)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        recording, trained = ctx.recording, ctx.trained
        if recording.passes != ctx.number:
            raise RuntimeError(
                "a recorded pass was repeated before its gradient was computed, which would be "
                "that of the later one; leave MODEL.DIFFUSION.COMPILE empty"
            )
        for own, gradient in zip(recording.given, gradients, strict=True):
            if own is not None:
                own.copy_(gradient)
        count = len(recording.inputs)
        of_inputs, of_weights = recording.gradients[:count], recording.gradients[count:]
        for weight, own in zip(trained, of_weights, strict=True):
            # PyTorch takes a first gradient as it is, without a copy. With gradient accumulation
            # it is still needed when the next one is written in its place.
            if own is not None and _shares_memory(weight.grad, own):
                weight.grad = weight.grad.clone()
        recording.backward()
        return (
            *(None, None),
            *(own if own is None else own.clone() for own in of_inputs),
            *(own if own is None else own.detach() for own in of_weights),
        )


def record_on_gpu(module: nn.Module, compute: Flat, tensors: Sequence[Tensor]) -> Recording:
    """
    Args:
        compute: a pass of the module; it must not wait for the GPU or draw at random.
        tensors: inputs, whose values do not matter.

    Raises:
        UserError: they are not on a GPU.
        RuntimeError: the pass cannot be recorded.
    """
    device = tensors[0].device
    if device.type != "cuda":
        raise UserError(
            f"MODEL.DIFFUSION.COMPILE asks for CUDA graphs, and the model is on {device}: leave "
            "the key empty"
        )
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.cuda.device(device))
        weights = stack.enter_context(_own_leaves(module))
        # Casts of weights that autocast keeps would be those of the time of the recording.
        stack.enter_context(
            torch.autocast(
                "cuda",
                dtype=torch.get_autocast_dtype("cuda"),
                enabled=torch.is_autocast_enabled("cuda"),
                cache_enabled=False,
            )
        )
        return _record(compute, tensors, weights)


def _record(compute: Flat, tensors: Sequence[Tensor], weights: Sequence[Tensor]) -> Recording:
    with_gradient = torch.is_grad_enabled()
    inputs = tuple(
        tensor.detach().clone().requires_grad_(with_gradient and tensor.requires_grad)
        for tensor in tensors
    )
    trained = [weight for weight in weights if weight.requires_grad]
    sources = [*(own for own in inputs if own.requires_grad), *trained] if with_gradient else []
    # The same for all, because a weight's step of autograd remembers the stream.
    stream = torch.cuda.Stream()
    capture = functools.partial(
        # Other threads, such as NCCL's, may ask the GPU for its state meanwhile.
        torch.cuda.graph,
        stream=stream,
        capture_error_mode="thread_local",
    )

    def differentiate(
        outputs: Sequence[Tensor], given: Sequence[Tensor | None]
    ) -> tuple[Tensor | None, ...]:
        return torch.autograd.grad(
            [output for output in outputs if output.requires_grad],
            sources,
            [own for own in given if own is not None],
            allow_unused=True,
        )

    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(_WARM_UPS):
            outputs = compute(inputs)
            given = _zeros_like(outputs)
            if any(output.requires_grad for output in outputs):
                differentiate(outputs, given)
            del outputs
    torch.cuda.current_stream().wait_stream(stream)
    # Nothing may be freed by chance during a recording.
    gc.collect()
    forward = torch.cuda.CUDAGraph()
    with capture(forward):
        outputs = compute(inputs)
    if not any(output.requires_grad for output in outputs):
        return Recording(inputs, tuple(o.detach() for o in outputs), forward.replay)
    given = _zeros_like(outputs)
    backward = torch.cuda.CUDAGraph()
    with capture(backward, pool=forward.pool()):
        found = iter(differentiate(outputs, given))
    return Recording(
        inputs=inputs,
        outputs=tuple(output.detach() for output in outputs),
        forward=forward.replay,
        given=given,
        gradients=tuple(next(found) if own.requires_grad else None for own in (*inputs, *trained)),
        backward=backward.replay,
    )


def _zeros_like(outputs: Sequence[Tensor]) -> tuple[Tensor | None, ...]:
    return tuple(torch.zeros_like(o.detach()) if o.requires_grad else None for o in outputs)


@contextlib.contextmanager
def _own_leaves(module: nn.Module) -> Iterator[list[Tensor]]:
    """Inside it the module computes with parameters of its own in the memory of the true ones.

    The true ones may belong to autograd already, on another stream: that of several processes
    (DDP), or an earlier recording's.
    """
    own = {
        weight: nn.Parameter(weight.detach(), weight.requires_grad)
        for weight in module.parameters()
    }
    held = [
        (part, name, weight)
        for part in module.modules()
        for name, weight in part._parameters.items()
        if weight is not None
    ]
    for part, name, weight in held:
        part._parameters[name] = own[weight]
    try:
        yield list(own.values())
    finally:
        for part, name, weight in held:
            part._parameters[name] = weight
