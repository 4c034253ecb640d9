"""A module's passes by OpenVINO, which computes on a CPU what PyTorch does, in less time.

Nothing is known here of what a module computes. A module is exported once, for inputs of any size,
and kept in `$TADP_D2_CACHE/openvino`, in a folder that is named by a hash of its weights and of all
else that decides on its passes. The folders may be removed at any time.
"""

import contextlib
import hashlib
import json
import logging
import os
import shutil
import sys
import warnings
from collections.abc import Callable, Hashable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import diffusers
import torch
from torch import Tensor, nn
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten

import tadp_d2
from tadp_d2.errors import UserError, reason
from tadp_d2.files import new_folder
from tadp_d2.frozen import fingerprint, tensors_of
from tadp_d2.precision import autocast
from tadp_d2.remembered import cache_folder

_logger = logging.getLogger(__name__)

# Exports that are kept, the last used: VAE and UNet of two models. Those of one Stable
# Diffusion 1.5 take 3.4 GiB.
_KEPT = 4
# The largest `difference` to PyTorch in fp32.
_BOUND = 1e-4
# The same in bf16, as a multiple of the difference of PyTorch's own bf16 to its fp32.
_BF16_BOUND = 2
# Sizes of inputs whose outputs are compared. What was exported as if it were the same for all sizes
# shows at the second.
_SIZES = 2
# A channel with a smaller share of the norm of the largest one counts as having this share.
_LEAST_NORM = 1e-3
_ADVICE = "leave MODEL.DIFFUSION.COMPILE empty"


class OpenVINOPass:
    """Stands in for a module's `forward` in testing: OpenVINO computes what PyTorch would.

    In bf16 autocast OpenVINO computes in bf16, too. Inputs may be tensors in tuples; what is no
    tensor is part of the export. Outputs are fp32. Those of the first inputs, and of the first of
    another size, are compared with PyTorch's before they are returned.
    """

    def __init__(self, module: nn.Module, compute: Callable[..., Any]):
        """
        Args:
            module: whose weights the pass reads.
            compute: the pass.

        Raises:
            UserError: OpenVINO is not installed.
        """
        self._openvino = _import_openvino()
        self._module, self._compute = module, compute
        self._networks: dict[Hashable, _Network] = {}
        self._weights: tuple | None = None

    def __call__(self, *args: Any) -> Any:
        """
        Raises:
            UserError: a gradient is asked for, the inputs are not on a CPU, or OpenVINO fails or
                computes other numbers than PyTorch.
        """
        flat = _FlatPass(self._module, self._compute, args)
        self._check(flat.tensors)
        self._look_at_weights()
        precision = "bf16" if torch.is_autocast_enabled("cpu") else "fp32"
        kind = (flat.kind, precision)
        with torch.no_grad():
            if kind not in self._networks:
                self._networks[kind] = self._open(flat, precision)
            return self._networks[kind].run(flat)

    def _check(self, inputs: Sequence[Tensor]) -> None:
        tensors = (*inputs, *self._module.parameters())
        differentiated = torch.is_grad_enabled() and any(t.requires_grad for t in tensors)
        if differentiated or self._module.training:
            raise UserError(f"OpenVINO is for testing, and computes no gradients: {_ADVICE}")
        for tensor in inputs:
            if tensor.device.type != "cpu":
                raise UserError(
                    f"OpenVINO is for CPUs here, and the model is on {tensor.device}: set "
                    f"MODEL.DEVICE cpu, or {_ADVICE}"
                )

    def _look_at_weights(self) -> None:
        """Forgets all networks if weights are others than before, or have changed."""
        weights = (*self._module.parameters(), *self._module.buffers())
        found = tuple((weight.data_ptr(), weight._version) for weight in weights)
        if found != self._weights:
            self._networks.clear()
            self._weights = found

    def _open(self, flat: "_FlatPass", precision: str) -> "_Network":
        """A network of which the outputs for these inputs were compared.

        Raises:
            UserError: they are not PyTorch's.
        """
        folder = self._find_folder(flat)
        if folder.exists():
            try:
                network = _Network(self._openvino, _model_file(folder), precision, flat.name)
                network.run(flat)
                with contextlib.suppress(OSError):  # another user's
                    os.utime(folder)
                return network
            except UserError as error:
                _logger.warning(f"{folder}: is not used, and made again: {reason(error)}")
                shutil.rmtree(folder, ignore_errors=True)
        _logger.info(f"{flat.name} is exported to OpenVINO, in a minute for a large model")
        model = flat.export(self._openvino)
        network = _Network(self._openvino, model, precision, flat.name)
        network.run(flat)
        self._keep(model, folder)
        return network

    def _find_folder(self, flat: "_FlatPass") -> Path:
        parts = (getattr(module, "config", None) for module in self._module.modules())
        configs = [config for config in parts if isinstance(config, Mapping)]
        made_of = {
            "versions": [m.__version__ for m in (self._openvino, torch, diffusers, tadp_d2)],
            "structure": repr(self._module),
            # Without the folder that it came from.
            "configs": [
                repr({option: v for option, v in config.items() if not option.startswith("_")})
                for config in configs
            ],
            # Not of its state: a module may keep frozen weights out of checkpoints.
            "weights": fingerprint(tensors_of(self._module)),
            "pass": flat.kind,
        }
        digest = hashlib.sha256(json.dumps(made_of).encode()).hexdigest()
        return cache_folder() / "openvino" / digest[:32]

    def _keep(self, model: Any, folder: Path) -> None:
        try:
            with new_folder(folder) as temporary:
                file = _model_file(temporary)
                self._openvino.save_model(model, file, compress_to_fp16=False)
        except UserError as error:
            if not folder.exists():  # no other process was faster
                _logger.warning(f"{error}; the next run exports again")
            return
        with contextlib.suppress(OSError):  # another process removes them
            folders = sorted(folder.parent.iterdir(), key=lambda path: path.stat().st_mtime)
            for old in folders[:-_KEPT]:
                shutil.rmtree(old, ignore_errors=True)


class _FlatPass(nn.Module):
    """A pass of a module as a function of tensors, which returns a tuple of tensors.

    Attributes:
        name: of the module's class.
        tensors: the inputs; their numbers are fp32.
        kind: what decides on outputs besides values and sizes of the inputs and the module's parts.
        outputs: the form of what the module returned last.
    """

    def __init__(self, module: nn.Module, compute: Callable[..., Any], args: tuple):
        super().__init__()
        self.module, self._compute = module, compute
        self.name = type(module).__name__
        self._leaves, self._form = tree_flatten(args)
        tensors = [leaf for leaf in self._leaves if isinstance(leaf, Tensor)]
        self.tensors = [t.float() if t.is_floating_point() else t for t in tensors]
        self.outputs: TreeSpec | None = None
        constants = [None if isinstance(leaf, Tensor) else leaf for leaf in self._leaves]
        ranks = [(tensor.ndim, tensor.dtype) for tensor in self.tensors]
        settings = {name: v for name, v in vars(module).items() if not name.startswith("_")}
        settings.pop("forward", None)
        self.kind = repr((self._form, constants, ranks, settings))

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        rest = iter(tensors)
        leaves = [next(rest) if isinstance(leaf, Tensor) else leaf for leaf in self._leaves]
        outputs, self.outputs = tree_flatten(self._compute(*tree_unflatten(leaves, self._form)))
        return tuple(outputs)

    def compute(self, precision: str) -> tuple[Tensor, ...]:
        """The outputs by PyTorch, fp32."""
        with autocast("cpu", precision):
            return tuple(output.float() for output in self(*self.tensors))

    def export(self, openvino: ModuleType) -> Any:
        """
        Returns:
            An OpenVINO model. It shares its weights with the module.

        Raises:
            UserError: OpenVINO does not know all of what the module computes.
        """
        # What stands in for it is none of what is exported.
        stand_in = vars(self.module).pop("forward", None)
        try:
            # Of tracing: that sizes may be taken for constants, which is looked for later.
            with warnings.catch_warnings(action="ignore"), autocast("cpu", "fp32"):
                return openvino.convert_model(self, example_input=tuple(self.tensors))
        except UserError:
            raise
        except Exception as error:
            raise UserError(
                f"{self.name} cannot be exported to OpenVINO ({reason(error)}): {_ADVICE}"
            ) from error
        finally:
            if stand_in is not None:
                self.module.forward = stand_in


class _Network:
    """An OpenVINO model that is ready to compute."""

    def __init__(self, openvino: ModuleType, model: Any, precision: str, name: str):
        """
        Args:
            model: or its file.
            name: for messages.

        Raises:
            UserError: OpenVINO does not take the model.
        """
        options = {
            "INFERENCE_PRECISION_HINT": {"fp32": "f32", "bf16": "bf16"}[precision],
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            "NUM_STREAMS": 1,
        }
        try:
            self._compiled = openvino.Core().compile_model(model, "CPU", options)
        except RuntimeError as error:
            raise _failure(name, error) from error
        self._precision = precision
        self._compared: set[tuple] = set()
        self._outputs: TreeSpec | None = None

    def run(self, flat: _FlatPass) -> Any:
        """What the module returns for the inputs.

        Raises:
            UserError: OpenVINO fails, or computes other numbers than PyTorch.
        """
        sizes = tuple(tuple(tensor.shape) for tensor in flat.tensors)
        if sizes in self._compared or len(self._compared) == _SIZES:
            return tree_unflatten(self._infer(flat), self._outputs)
        # First, because its errors tell more.
        expected = flat.compute("fp32")
        found = self._infer(flat)
        self._outputs = flat.outputs
        error, bound = difference(found, expected), _BOUND
        if self._precision == "bf16":
            bound = max(bound, _BF16_BOUND * difference(flat.compute("bf16"), expected))
        said = f"{flat.name} by OpenVINO in {self._precision} differs from PyTorch by {error:.1e}"
        # Not by ">", because the difference may be no number.
        if not error <= bound:
            raise UserError(
                f"{said} for inputs of {', '.join(map(str, sizes))}, which is more than "
                f"{bound:.1e}: {_ADVICE}"
            )
        _logger.info(f"{said}; up to {bound:.1e} is rounding")
        self._compared.add(sizes)
        return tree_unflatten(found, self._outputs)

    def _infer(self, flat: _FlatPass) -> list[Tensor]:
        try:
            found = self._compiled([tensor.contiguous().numpy() for tensor in flat.tensors])
        except RuntimeError as error:
            raise _failure(flat.name, error) from error
        return [torch.from_numpy(found[place]) for place in range(len(found))]


def _failure(name: str, error: RuntimeError) -> UserError:
    # Its first lines are places in OpenVINO's source.
    why = (str(error).strip().splitlines() or ["no reason given"])[-1]
    return UserError(f"{name}: OpenVINO fails ({why}): {_ADVICE}")


def difference(found: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """How far tensors B x C x ... are from others, the largest of all pairs.

    The difference of a channel is relative to its norm. Of channels the root mean square counts, so
    that attention maps, which are small numbers, count as much as features.
    """
    return max(_difference(*pair) for pair in zip(found, expected, strict=True))


def _difference(found: Tensor, expected: Tensor) -> float:
    wrong, norms = (
        tensor.transpose(0, 1).flatten(1).norm(dim=1) for tensor in (found - expected, expected)
    )
    relative = wrong / norms.clamp_min(_LEAST_NORM * norms.max())
    return relative.square().mean().sqrt().item()


def _model_file(folder: Path) -> Path:
    return folder / "model.xml"


def _import_openvino() -> ModuleType:
    # Without this package OpenVINO reports nothing about its use over the network.
    sys.modules.setdefault("openvino_telemetry", None)
    try:
        import openvino
    except ImportError:
        raise UserError(
            "MODEL.DIFFUSION.COMPILE is openvino, which is not installed: install it by "
            'pip install ".[openvino]" or pip install openvino, or leave the key empty'
        ) from None
    return openvino
