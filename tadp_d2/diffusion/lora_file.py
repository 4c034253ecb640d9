"""Files of low-rank updates (LoRA) that others trained, and adding them to a base model's weights.

They are read in diffusers' formats (that of PEFT and older ones) and in that of kohya's scripts.
What this project trains itself is `modeling.low_rank`.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

from tadp_d2.errors import UserError, reason
from tadp_d2.files import sha256

# How names of weights begin -> the part of the model that they update. The names of the first kind
# have _ for all dots; the oldest of diffusers' are of the UNet alone.
_FLAT = {"lora_unet_": "unet", "lora_te_": "text_encoder", "lora_te1_": "text_encoder"}
_FLAT |= {"lora_te2_": "text_encoder_2"}
_DOTTED = {f"{part}.": part for part in ("unet", "text_encoder", "text_encoder_2")}
_OLDEST = ("down_blocks.", "mid_block.", "up_blocks.")
_FACTOR = re.compile(
    r"(?:[._]lora|\.lora_linear_layer)?\.(?:lora_)?(?P<factor>down|up|A|B)(?:\.default)?\.weight$"
)
_ALPHA = ".alpha"
# Where the names of diffusers' older formats differ from those of its layers.
_RENAMED = (
    (r"_processor\b|_processor(?=_)", ""),
    (r"^text_model_", ""),
    (r"_self_attn_to_(q|k|v)$", r"_self_attn_\1_proj"),
    (r"_self_attn_to_out$", "_self_attn_out_proj"),
    (r"_to_out$", "_to_out_0"),
)
# Options of PEFT under which other updates are computed.
_OTHER_KINDS = ("use_dora", "use_rslora", "alpha_pattern", "fan_in_fan_out", "lora_bias")
_OTHER_BASE = "it was made for another base model than that of MODEL.DIFFUSION.WEIGHTS"


@dataclass
class _Update:
    """weight -> weight + alpha / rank * up @ down.

    Attributes:
        name: of the updated layer, as the file has it.
        alpha: None for the rank.
        down: rank x inputs, or of a convolution rank x channels x height x width.
        up: outputs x rank, or of a convolution outputs x rank x 1 x 1.
    """

    name: str
    alpha: float | None
    down: Tensor | None = None
    up: Tensor | None = None

    def fits(self, weight: Tensor) -> bool:
        """Whether the product has the shape of a weight."""
        rank = len(self.down)
        return (
            self.up.numel() == len(weight) * rank
            and len(self.up) == len(weight)
            and self.down.numel() * len(weight) == weight.numel() * rank
        )

    def product(self) -> Tensor:
        """outputs x inputs, in fp32."""
        factor = 1.0 if self.alpha is None else self.alpha / len(self.down)
        return factor * (self.up.float().flatten(1) @ self.down.float().flatten(1))


class LoraFile:
    """The updates of a file. To make one reads the file and compares nothing yet."""

    def __init__(self, path: str | Path, scale: float = 1.0):
        """
        Args:
            scale: by which all updates are multiplied.

        Raises:
            UserError: there is no such file, or it holds anything but such updates.
        """
        self.path = Path(path)
        self.scale = scale
        weights, alphas = _read(self.path)
        self._updates: dict[str, dict[str, _Update]] = {}
        for name, tensor in weights.items():
            self._add(name, tensor, alphas)
        for update in self._all():
            if update.down is None or update.up is None:
                raise UserError(
                    f"{self.path}: has but one of two factors of {update.name}; replace it by an "
                    "undamaged copy"
                )

    def _add(self, name: str, tensor: Tensor, alphas: Mapping[str, float]) -> None:
        found = _FACTOR.search(name)
        path = name[: found.start()] if found else name.removesuffix(_ALPHA)
        place = _place(path)
        if place is None or path == name or not tensor.is_floating_point():
            raise UserError(
                f"{self.path}: holds {name!r}; expected the factors of low-rank updates of Stable "
                "Diffusion, as diffusers or kohya's scripts write them (not DoRA, LoHa, LoKr, and "
                "of no transformer)"
            )
        part, layer = place
        alpha = alphas.get(f"{part}.lora_alpha")
        update = self._updates.setdefault(part, {}).setdefault(layer, _Update(path, alpha))
        if not found:
            update.alpha = float(tensor)
        elif found["factor"] in ("down", "A"):
            update.down = tensor
        else:
            update.up = tensor

    def _all(self) -> Iterator[_Update]:
        return (update for updates in self._updates.values() for update in updates.values())

    @property
    def provenance(self) -> dict[str, Any]:
        """What distinguishes the updates of two models."""
        ranks = sorted({len(update.down) for update in self._all()})
        return {"file": sha256(self.path), "ranks": ranks, "scale": self.scale}

    def check(self, parts: Mapping[str, nn.Module]) -> None:
        """
        Args:
            parts: of the base model, by their folders; their weights need not be there.

        Raises:
            UserError: an update has no place in them.
        """
        for part, updates in self._updates.items():
            if part not in parts:
                raise UserError(f"{self.path}: updates a {part}: {_OTHER_BASE}, which has none")
            layers = _layers(parts[part])
            for layer, update in updates.items():
                self._check_fits(update, layers.get(layer))

    def _check_fits(self, update: _Update, weight: Tensor | None) -> None:
        if weight is None:
            raise UserError(
                f"{self.path}: updates {update.name}: {_OTHER_BASE}, which has no such layer"
            )
        if not update.fits(weight):
            up, down, own = (tuple(t.shape) for t in (update.up, update.down, weight))
            raise UserError(
                f"{self.path}: updates {update.name} by {up} x {down}, and the weight is of {own}: "
                f"{_OTHER_BASE}"
            )

    @torch.no_grad()
    def merge(self, part: str, module: nn.Module) -> None:
        """Adds the updates of a part, which were checked, to its weights."""
        layers = _layers(module)
        for layer, update in self._updates.get(part, {}).items():
            weight = layers[layer]
            weight += (self.scale * update.product()).view_as(weight).to(weight)


def _place(path: str) -> tuple[str, str] | None:
    """The part and the layer, as `_layers` names it, of the name of an update's layer."""
    for start, part in {**_FLAT, **_DOTTED}.items():
        if path.startswith(start):
            return part, _flat(path.removeprefix(start))
    return ("unet", _flat(path)) if path.startswith(_OLDEST) else None


def _flat(path: str) -> str:
    """A layer's name in one form, with _ for the dots."""
    path = path.replace(".", "_")
    for old, new in _RENAMED:
        path = re.sub(old, new, path)
    return path


def _layers(module: nn.Module) -> dict[str, Tensor]:
    """Name in one form -> weight, of layers that multiply."""
    return {
        _flat(name): layer.weight
        for name, layer in module.named_modules()
        if isinstance(layer, nn.Linear | nn.Conv2d)
    }


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, float]]:
    """The weights of a file, and `<part>.lora_alpha`, which diffusers writes beside them.

    Raises:
        UserError: there is no such file, or it cannot be read, or its options are not known.
    """
    if not path.is_file():
        within = " in it" if path.is_dir() else ""
        raise UserError(
            f"{path}: no such file of low-rank updates: MODEL.DIFFUSION.LORA_FILE must name a "
            f"file{within}, such as pytorch_lora_weights.safetensors"
        )
    options: dict[str, Any] = {}
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, "pt") as content:
                weights = {name: content.get_tensor(name) for name in content.keys()}  # noqa: SIM118
                options = json.loads((content.metadata() or {}).get("lora_adapter_metadata", "{}"))
        else:
            weights = torch.load(path, map_location="cpu", weights_only=True)
        if not weights or not all(isinstance(tensor, Tensor) for tensor in weights.values()):
            raise ValueError("it holds other things than tensors")
        unknown = [n for n, value in options.items() if n.endswith(_OTHER_KINDS) and value]
        alphas = {name: float(options[name]) for name in options if name.endswith(".lora_alpha")}
    except Exception as error:  # the two readers raise many kinds for a damaged file
        raise UserError(
            f"{path}: cannot be read as low-rank updates ({reason(error)}); replace it by an "
            "undamaged copy"
        ) from None
    if unknown:
        raise UserError(f"{path}: is trained with {unknown[0]}, which is not computed here")
    return weights, alphas
