"""The diffusion model as a Detectron2 backbone, plain and with Detectron2's FPN."""

import contextlib
from collections.abc import Callable, Iterator, Sequence

import torch
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, FPN, Backbone
from torch import Tensor, nn

from tadp_d2.conditioning.conditioner import Condition, count_context_tokens, open_model_of
from tadp_d2.diffusion.compiling import compile_passes
from tadp_d2.diffusion.diffusion_model import Context, MapOptions
from tadp_d2.diffusion.latent_cache import CachedLatents
from tadp_d2.diffusion.latent_noise import LatentNoise, kept_variance
from tadp_d2.errors import UserError
from tadp_d2.frozen import Frozen
from tadp_d2.modeling.levels import check_levels
from tadp_d2.modeling.low_rank import train_low_rank
from tadp_d2.precision import autocast
from tadp_d2.pyramid import Pyramid

# Images as the backbone gets them, and their latents -> the condition of the pass.
MakeCondition = Callable[[Tensor, Tensor], Condition]


class DiffusionBackbone(Backbone):
    """Image -> frozen VAE -> latent -> one UNet pass under a condition -> multi-scale features.

    The UNet may get the latent with noise; the condition never does.

    It must be given a condition: `with backbone.conditioned(condition): ...`.
    """

    def __init__(
        self,
        latent_encoder: nn.Module,
        unet: nn.Module,
        timestep: float = 0,
        test_precision: str = "fp32",
        noise: LatentNoise = LatentNoise(kept=1),  # noqa: B008 (it is never changed)
    ):
        """
        Args:
            timestep: that the UNet is conditioned on.
            test_precision: of a pass in eval mode, a key of `precision.DTYPES`; "fp32" leaves that
                to the caller, as in training.
            noise: that latents get before the UNet.
        """
        super().__init__()
        self.latent_encoder = Frozen(latent_encoder)
        self.unet = unet
        self.timestep = timestep
        self.test_precision = test_precision
        self.noise = noise
        self._condition: MakeCondition | None = None
        self._cached: Sequence[CachedLatents | None] | None = None
        self._images: Sequence[int] | None = None
        self._added: dict[str, Tensor] = {}
        # Images of the last pass in eval mode, how they were encoded, and their latents.
        self._last: tuple[Tensor, tuple, Tensor] | None = None

    @contextlib.contextmanager
    def conditioned(
        self,
        condition: MakeCondition | Context,
        cached: Sequence[CachedLatents | None] | None = None,
        images: Sequence[int] | None = None,
    ) -> Iterator[dict[str, Tensor]]:
        """Passes inside the block are under a condition; yields what it adds to them.

        That is losses in training, and outputs of each image in testing.

        Args:
            condition: a context for the images; or a function that is called in each pass with
                the images as the backbone gets them, and with their latents.
            cached: B, the images' latents, or where they are to be kept, if anywhere. All are
                rounded to half precision, so that it does not matter which are new.
            images: B numbers by which the noise of the images is drawn in testing.
        """
        outer = self._condition, self._cached, self._images, self._added
        make = (lambda *_: Condition(condition)) if isinstance(condition, Context) else condition
        self._condition, self._cached, self._images, self._added = make, cached, images, {}
        try:
            yield self._added
        finally:
            self._condition, self._cached, self._images, self._added = outer

    @property
    def is_conditioned(self) -> bool:
        """Whether passes are under a condition."""
        return self._condition is not None

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """
        Args:
            images: B x 3 x H x W in [-1, 1]; H and W multiples of `size_divisibility`.

        Returns:
            level -> B x C x H/stride x W/stride, as `output_shape` returns.
        """
        if not self.is_conditioned:
            raise RuntimeError(
                "the diffusion backbone needs a condition: call it inside conditioned(...), or use "
                "a meta-architecture that does, such as ConditionedRetinaNet for RetinaNet"
            )
        if self.training or self.test_precision == "fp32":
            return self._features(images)
        return at_precision(self._features, images, self.test_precision)

    def _features(self, images: Tensor) -> dict[str, Tensor]:
        latents = self._encode(images) if self._cached is None else self._recall(images)
        condition = self._condition(images, latents)
        self._added.update(condition.losses if self.training else condition.outputs)
        latents = self.noise.add(latents, self._images, self.training)
        return self.unet(latents, condition.context, self.timestep)

    def _encode(self, images: Tensor) -> Tensor:
        """Latents; of the images of the last pass again without the VAE.

        In testing, an image that several expressions refer to comes once for each, in a row.
        """
        # To compare images would break a compiled graph in two.
        if self.training or torch.compiler.is_compiling():
            return self.latent_encoder(images)
        kind = images.device.type
        manner = (torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind))
        if self._last and self._last[1] == manner and _are_equal(self._last[0], images):
            return self._last[2]
        latents = self.latent_encoder(images)
        self._last = images, manner, latents
        return latents

    def _recall(self, images: Tensor) -> Tensor:
        latents = []
        for image, cached in zip(images, self._cached, strict=True):
            value = cached.value if cached else None
            if value is None:
                # One by one and in full precision: independent of the batch and of autocast.
                with autocast(images.device.type, "fp32"):
                    value = self.latent_encoder(image[None].float())[0].half()
                if cached:
                    cached.keep(value)
            latents.append(value.to(images.device).float())
        return torch.stack(latents)

    @property
    def size_divisibility(self) -> int:
        return max(self.unet.strides.values())

    def output_shape(self) -> dict[str, ShapeSpec]:
        return {
            level: ShapeSpec(channels=self.unet.channels[level], stride=stride)
            for level, stride in self.unet.strides.items()
        }


def at_precision(
    compute: Callable[[Tensor], dict[str, Tensor]], images: Tensor, precision: str
) -> dict[str, Tensor]:
    """The maps of images in fp32, computed in a precision.

    Around the backbone and not the model: boxes and logits keep their digits, and cost little.
    """
    with autocast(images.device.type, precision):
        features = compute(images)
    return {level: maps.float() for level, maps in features.items()}


def _are_equal(first: Tensor, second: Tensor) -> bool:
    return first.device == second.device and torch.equal(first, second)


def find_diffusion_backbone(model: nn.Module) -> DiffusionBackbone:
    """The one in a model.

    Raises:
        UserError: it has none.
    """
    for part in model.modules():
        if isinstance(part, DiffusionBackbone):
            return part
    raise UserError(
        "this model has no diffusion backbone: MODEL.BACKBONE.NAME must be "
        "build_diffusion_backbone, build_diffusion_fpn_backbone or one that contains it"
    )


class FullPrecisionFPN(FPN):
    """Detectron2's FPN, whose maps are fp32 also under autocast.

    RoI pooling rounds the boxes' coordinates to the type of the maps, and bf16 has 8 bits.
    """

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {name: features.float() for name, features in super().forward(x).items()}


@BACKBONE_REGISTRY.register()
def build_diffusion_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> DiffusionBackbone:
    """The plain backbone, whose maps are named "s3", "s4", ... by the log2 of their strides."""
    backbone = load_backbone(cfg)
    check_levels(cfg, "build_diffusion_backbone", backbone.output_shape())
    return backbone


def load_backbone(cfg: CfgNode) -> DiffusionBackbone:
    """The backbone of a config, whatever its head reads.

    Raises:
        UserError: a part of the diffusion model is missing or damaged, or they do not fit, or
            there is no compiler for MODEL.DIFFUSION.COMPILE.
    """
    options = cfg.MODEL.DIFFUSION
    model = open_model_of(cfg)
    latent_encoder = model.load_latent_encoder(options.LATENT_SCALING)
    maps = MapOptions(
        tokens=count_context_tokens(cfg),
        levels=options.ATTENTION_MAPS.LEVELS,
        paths=options.ATTENTION_MAPS.PATHS,
        gradient=options.ATTENTION_MAPS.GRADIENT,
        # Width and height -> height and width.
        self_attention=tuple(options.ATTENTION_MAPS.SELF_ATTENTION[::-1]),
    )
    features = model.load_features(
        latent_encoder, maps, options.GRADIENT_CHECKPOINTING, options.TAPS
    )
    if options.LORA_RANK:
        new = [part for part in features.modules() if isinstance(part, Pyramid)]
        train_low_rank(features, options.LORA_RANK, whole=new)
    compile_passes(options.COMPILE, latent_encoder, features)
    kept = kept_variance(model.folder, options.NOISE_TIMESTEP) if options.NOISE_TIMESTEP else 1
    noise = LatentNoise(kept, cfg.SEED)
    return DiffusionBackbone(latent_encoder, features, options.TIMESTEP, cfg.TEST.PRECISION, noise)


@BACKBONE_REGISTRY.register()
def build_diffusion_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FullPrecisionFPN:
    """Detectron2's FPN on the maps of the diffusion backbone: "p3", "p4", ..."""
    fpn = make_fpn(cfg, load_backbone(cfg))
    check_levels(cfg, "build_diffusion_fpn_backbone", fpn.output_shape())
    return fpn


def make_fpn(cfg: CfgNode, bottom_up: Backbone) -> FullPrecisionFPN:
    """Detectron2's FPN, as a config sets it, on all levels of a backbone."""
    return FullPrecisionFPN(
        bottom_up=bottom_up,
        in_features=list(bottom_up.output_shape()),
        out_channels=cfg.MODEL.FPN.OUT_CHANNELS,
        norm=cfg.MODEL.FPN.NORM,
        fuse_type=cfg.MODEL.FPN.FUSE_TYPE,
    )
