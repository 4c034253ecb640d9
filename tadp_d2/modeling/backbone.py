"""The diffusion model as a Detectron2 backbone, plain and with Detectron2's FPN."""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, FPN, Backbone
from torch import Tensor, nn
from transformers import CLIPTextConfig

from tadp_d2.diffusion.clip_text import Context
from tadp_d2.diffusion.latent_cache import CachedLatents
from tadp_d2.diffusion.model_folder import find_weights
from tadp_d2.diffusion.stable_diffusion import LatentEncoder, UNetFeatures, load_unet, load_vae
from tadp_d2.errors import UserError
from tadp_d2.frozen import Frozen
from tadp_d2.precision import autocast


class DiffusionBackbone(Backbone):
    """Image -> frozen VAE -> latent -> one UNet pass under a context -> multi-scale features.

    It must be told the context of the images: `with backbone.conditioned(context): ...`.
    """

    def __init__(
        self,
        latent_encoder: LatentEncoder,
        unet: UNetFeatures,
        timestep: float = 0,
        test_precision: str = "fp32",
    ):
        """
        Args:
            timestep: that the UNet is told.
            test_precision: of a pass in eval mode, a key of `precision.DTYPES`; "fp32" leaves that
                to the caller, as in training.
        """
        super().__init__()
        self.latent_encoder = Frozen(latent_encoder)
        self.unet = unet
        self.timestep = timestep
        self.test_precision = test_precision
        self._context: Context | None = None
        self._cached: Sequence[CachedLatents] | None = None

    @contextlib.contextmanager
    def conditioned(
        self, context: Context, cached: Sequence[CachedLatents | None] | None = None
    ) -> Iterator[None]:
        """Passes inside the block are conditioned on `context`, B x N x D.

        Args:
            cached: B, the images' latents, or where they are to be kept, if anywhere. All are
                rounded to half precision, so that it does not matter which are new.
        """
        self._context, self._cached = context, cached
        try:
            yield
        finally:
            self._context = self._cached = None

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """
        Args:
            images: B x 3 x H x W in [-1, 1]; H and W multiples of `size_divisibility`.

        Returns:
            level -> B x C x H/stride x W/stride, as `output_shape` says.
        """
        if self._context is None:
            raise RuntimeError(
                "the diffusion backbone needs a context: call it inside conditioned(context), or "
                "use a meta-architecture that does, such as CaptionedRCNN"
            )
        if self.training or self.test_precision == "fp32":
            return self._features(images)
        # Here and not around the model: boxes and logits keep their digits, and cost little.
        with autocast(images.device.type, self.test_precision):
            features = self._features(images)
        return {level: maps.float() for level, maps in features.items()}

    def _features(self, images: Tensor) -> dict[str, Tensor]:
        latents = self.latent_encoder(images) if self._cached is None else self._recall(images)
        return self.unet(latents, self._context, self.timestep)

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


def find_diffusion_backbone(model: nn.Module) -> DiffusionBackbone:
    """The one in a model."""
    return next(part for part in model.modules() if isinstance(part, DiffusionBackbone))


class FullPrecisionFPN(FPN):
    """Detectron2's FPN, whose maps are fp32 also under autocast.

    RoI pooling rounds the boxes' coordinates to the type of the maps, and bf16 has 8 bits.
    """

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {name: features.float() for name, features in super().forward(x).items()}


@BACKBONE_REGISTRY.register()
def build_diffusion_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> DiffusionBackbone:
    """The plain backbone, whose maps are named "s3", "s4", ... by the log2 of their strides."""
    options = cfg.MODEL.DIFFUSION
    folder = find_weights(options.WEIGHTS, options.REVISION)
    vae = load_vae(folder)
    unet_folder = Path(options.UNET) if options.UNET else folder / "unet"
    unet = load_unet(unet_folder)
    text = CLIPTextConfig.from_pretrained(folder / "text_encoder")
    if unet.config.in_channels != vae.config.latent_channels:
        raise UserError(
            f"{unet_folder}: reads latents of {unet.config.in_channels} channels, but the VAE of "
            f"{folder} writes {vae.config.latent_channels}"
        )
    if unet.config.cross_attention_dim != text.hidden_size:
        raise UserError(
            f"{unet_folder}: reads contexts of width {unet.config.cross_attention_dim}, but the "
            f"text encoder of {folder} writes {text.hidden_size}: they are of different base models"
        )
    if options.GRADIENT_CHECKPOINTING:
        unet.enable_gradient_checkpointing()
    latent_encoder = LatentEncoder(vae, options.LATENT_SCALING)
    features = UNetFeatures(
        unet,
        latent_stride=latent_encoder.stride,
        context_length=text.max_position_embeddings,
        map_levels=options.ATTENTION_MAPS.LEVELS,
        map_paths=options.ATTENTION_MAPS.PATHS,
        map_gradient=options.ATTENTION_MAPS.GRADIENT,
    )
    return DiffusionBackbone(latent_encoder, features, options.TIMESTEP, cfg.TEST.PRECISION)


@BACKBONE_REGISTRY.register()
def build_diffusion_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FullPrecisionFPN:
    """Detectron2's FPN on the maps of the diffusion backbone: "p3", "p4", ..."""
    bottom_up = build_diffusion_backbone(cfg, input_shape)
    return FullPrecisionFPN(
        bottom_up=bottom_up,
        in_features=list(bottom_up.output_shape()),
        out_channels=cfg.MODEL.FPN.OUT_CHANNELS,
        norm=cfg.MODEL.FPN.NORM,
        fuse_type=cfg.MODEL.FPN.FUSE_TYPE,
    )
