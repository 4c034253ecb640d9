"""Any Detectron2 meta-architecture on the diffusion backbone, conditioned on its inputs.

For each architecture `X` of Detectron2's registry there is `ConditionedX` in it, a subclass: it
takes the same YAML, has the same weights under the same names, and what its conditioner trains
besides. `MODEL.CONDITIONER` sets what the backbone is conditioned on.
"""

import contextlib
import zlib
from collections.abc import Iterator
from typing import Any

from detectron2.modeling import META_ARCH_REGISTRY, GeneralizedRCNN, SemanticSegmentor
from detectron2.structures import Instances
from torch import Tensor, nn

from tadp_d2.conditioning.conditioner import Conditioner, build_conditioner
from tadp_d2.diffusion.latent_cache import CachedLatents
from tadp_d2.errors import UserError
from tadp_d2.modeling.backbone import find_diffusion_backbone
from tadp_d2.modeling.depth_estimator import DepthEstimator
from tadp_d2.modeling.scales import InViews
from tadp_d2.modeling.windows import InWindows

_PREFIX = "Conditioned"


class Conditioned:
    """Mixed into a meta-architecture: its passes are conditioned on its inputs.

    Besides what the architecture reads, an input dict has what the conditioner needs, such as
    "caption".
    """

    def __init__(self, *args: Any, conditioner: Conditioner | None = None, **kwargs: Any):
        """
        Args:
            args, kwargs: of the architecture: a config, or its parts.
            conditioner: None for that of the config, the first of `args`.
        """
        if conditioner is None:
            # First, so that missing weights are found before the backbone is built.
            conditioner = build_conditioner(args[0] if args else kwargs["cfg"])
        super().__init__(*args, **kwargs)
        self.conditioner = conditioner

    def forward(self, batched_inputs: list[dict[str, Any]]) -> dict[str, Tensor] | list[dict]:
        """As the architecture's, with the losses or outputs of the conditioner."""
        with self._condition_on(batched_inputs) as added:
            outputs = super().forward(batched_inputs)
        if self.training:
            return {**outputs, **added}
        return [
            {**output, **{name: values[place] for name, values in added.items()}}
            for place, output in enumerate(outputs)
        ]

    @contextlib.contextmanager
    def _condition_on(self, batched_inputs: list[dict[str, Any]]) -> Iterator[dict[str, Tensor]]:
        if not self.conditioner.conditions:
            yield {}
            return
        cached = [_own_latents(inputs) for inputs in batched_inputs]
        backbone = find_diffusion_backbone(self)
        noisy = backbone.noise.kept < 1
        with backbone.conditioned(
            lambda images, latents: self.conditioner(batched_inputs, images, latents),
            cached if any(cached) else None,
            [_number(inputs) for inputs in batched_inputs] if noisy else None,
        ) as added:
            yield added


def find_conditioner(model: nn.Module) -> Conditioner:
    """That of a conditioned architecture, also of one inside of a wrapper of several processes.

    Raises:
        UserError: the model is not conditioned.
    """
    for part in model.modules():
        if isinstance(part, Conditioned):
            return part.conditioner
    raise UserError(
        f"{type(model).__name__} is not conditioned: set MODEL.META_ARCHITECTURE to the name of a "
        f"conditioned architecture, such as {_PREFIX}RetinaNet"
    )


def _own_latents(inputs: dict[str, Any]) -> CachedLatents | None:
    """The cached latents of an input, if they are still those of its image.

    Raises:
        UserError: the image was changed after its latents were looked up, and is none itself.
    """
    latents = inputs.get("latents")
    if latents is None or latents.belong_to(inputs["image"]):
        return latents
    if latents.value is None:
        return None
    raise UserError(
        f"{inputs.get('file_name', 'an input')}: was changed after its latents were taken from the "
        "cache, for example by test-time augmentation; empty MODEL.DIFFUSION.LATENT_CACHE.FOLDER"
    )


def _number(inputs: dict[str, Any]) -> int:
    """That of an input's image: by its id, or by its pixels where it has none."""
    name = inputs.get("image_id")
    content = inputs["image"].cpu().contiguous().numpy() if name is None else str(name).encode()
    return zlib.crc32(content)


class ConditionedDetector(Conditioned):
    """`Conditioned` for what derives from `GeneralizedRCNN`."""

    # Test-time augmentation calls this and not forward.
    def inference(
        self, batched_inputs: list[dict[str, Any]], *args: Any, **kwargs: Any
    ) -> list[dict] | list[Instances]:
        """As `GeneralizedRCNN.inference`."""
        conditions = self.conditioner.conditions
        if not conditions or find_diffusion_backbone(self).is_conditioned:  # by forward, already
            return super().inference(batched_inputs, *args, **kwargs)
        with self._condition_on(batched_inputs):
            return super().inference(batched_inputs, *args, **kwargs)


class ConditionedDense(InViews, Conditioned):
    """`Conditioned` for what derives from `SemanticSegmentor`; it tests in views and windows."""


class ConditionedDepth(InWindows, Conditioned):
    """`Conditioned` for what derives from `DepthEstimator`; it can test in windows."""


def _mixin(architecture: type[nn.Module]) -> type[Conditioned]:
    known = {
        GeneralizedRCNN: ConditionedDetector,
        SemanticSegmentor: ConditionedDense,
        DepthEstimator: ConditionedDepth,
    }
    found = (mixin for base, mixin in known.items() if issubclass(architecture, base))
    return next(found, Conditioned)


def register_conditioned() -> None:
    """Registers `ConditionedX` for every meta-architecture `X`, also for a user's own.

    Called when this module is imported and when a config is loaded.
    """
    for name, architecture in list(META_ARCH_REGISTRY):
        # One that is conditioned already, by its name or by what it derives from.
        known = f"{_PREFIX}{name}" in META_ARCH_REGISTRY or not isinstance(architecture, type)
        if not known and not issubclass(architecture, Conditioned):
            bases = (_mixin(architecture), architecture)
            text = f"Detectron2's `{name}` on the diffusion backbone, conditioned on its inputs."
            members = {"__doc__": text, "__module__": __name__}
            META_ARCH_REGISTRY.register(type(f"{_PREFIX}{name}", bases, members))


@META_ARCH_REGISTRY.register()
class CaptionedRCNN(ConditionedDetector, GeneralizedRCNN):
    """`ConditionedGeneralizedRCNN` under the name that checkpoints and configs know."""


@META_ARCH_REGISTRY.register()
class CaptionedSegmentor(ConditionedDense, SemanticSegmentor):
    """`ConditionedSemanticSegmentor` under the name that checkpoints and configs know."""


register_conditioned()
