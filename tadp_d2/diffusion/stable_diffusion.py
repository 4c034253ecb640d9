"""Stable Diffusion as a feature extractor: image -> latent, latent and context -> features.

This module knows diffusers and nothing of Detectron2, images' origin or captions.
"""

import contextlib
import math
from collections.abc import Collection
from pathlib import Path

import torch
from diffusers import AutoencoderKL, ModelMixin, UNet2DConditionModel
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tadp_d2.diffusion.attention import AttentionMaps, FusedAttention, RecordedAttention
from tadp_d2.diffusion.clip_text import Context
from tadp_d2.diffusion.model_folder import check_complete, loading
from tadp_d2.errors import UserError
from tadp_d2.frozen import fingerprint

_DOWN_BLOCKS = {"CrossAttnDownBlock2D", "DownBlock2D"}
_MID_BLOCKS = {"UNetMidBlock2DCrossAttn", None}
_UP_BLOCKS = {"CrossAttnUpBlock2D", "UpBlock2D"}
# Keys of a UNet's config that ask for more conditioning than a time step and a text.
_OTHER_CONDITIONS = ("class_embed_type", "addition_embed_type", "encoder_hid_dim_type")
# Not computed: they turn the last feature map into noise.
_OUTPUT_LAYERS = ("conv_norm_out", "conv_act", "conv_out")


class LatentEncoder(nn.Module):
    """The encoding half of a VAE: image -> mean latent, never a sample, so it is deterministic."""

    def __init__(self, vae: AutoencoderKL, scale_latents: bool = True):
        """
        Args:
            vae: its decoder is dropped.
            scale_latents: multiply by the VAE's scaling factor (TADP, "latent scaling").
        """
        super().__init__()
        vae.decoder = vae.post_quant_conv = None
        self.vae = vae
        self.factor = vae.config.scaling_factor if scale_latents else 1.0
        self.stride = 2 ** (len(vae.config.block_out_channels) - 1)

    def forward(self, images: Tensor) -> Tensor:
        """
        Args:
            images: B x 3 x H x W, in [-1, 1] with Stable Diffusion's normalisation.

        Returns:
            B x 4 x H/stride x W/stride.
        """
        with _no_fp16(images.device.type):
            return self.vae.encode(images).latent_dist.mode() * self.factor


def _no_fp16(device: str) -> contextlib.AbstractContextManager:
    """The VAE of Stable Diffusion 1.5 overflows in fp16; bf16 and fp32 are safe."""
    if torch.is_autocast_enabled(device) and torch.get_autocast_dtype(device) == torch.float16:
        return torch.autocast(device, enabled=False)
    return contextlib.nullcontext()


class UNetFeatures(nn.Module):
    """One pass of a denoising UNet, from which feature maps are returned instead of noise.

    A level is named by the log2 of its stride: "s3" is stride 8. Features come from the up path:
    after the last layer of its last block, and after the last but one of every other block, that
    is, the second of three in Stable Diffusion 1.x (VPD, section 3.3, as released). At the levels
    in `map_levels` the cross-attention maps, averaged over heads and layers, follow the features'
    channels.
    """

    def __init__(
        self,
        unet: UNet2DConditionModel,
        latent_stride: int = 8,
        context_length: int = 77,
        map_levels: Collection[str] = ("s4", "s5"),
        map_paths: Collection[str] = ("down", "up"),
        map_gradient: bool = True,
    ):
        """
        Args:
            unet: its output layers are dropped.
            latent_stride: image pixels per latent pixel.
            context_length: N, the number of context tokens and so of map channels.
            map_levels: the levels that get maps; none switches them off.
            map_paths: the paths whose layers are averaged.
            map_gradient: whether gradients flow through the maps.

        Raises:
            UserError: the UNet is of a kind that this class does not know, or has no
                cross-attention at a level in `map_levels`.
        """
        super().__init__()
        _check_architecture(unet)
        # Of the weights as they came, whatever training or a checkpoint makes of them; none for a
        # model of shapes without weights.
        self.base_fingerprint = "" if unet.device.type == "meta" else unet_fingerprint(unet)
        # No parameters either: one without a gradient stops distributed training.
        for name in _OUTPUT_LAYERS:
            setattr(unet, name, None)
        self.unet = unet
        self.map_gradient = map_gradient
        self.context_length = context_length
        finest = int(math.log2(latent_stride))
        depth = len(unet.up_blocks)
        self.levels = [f"s{finest + i}" for i in range(depth)]
        recorded = _set_processors(unet, self.levels, map_levels, map_paths)
        if recorded != set(map_levels):
            raise UserError(
                f"attention maps at {', '.join(sorted(set(map_levels) - recorded))}: this UNet has "
                f"cross-attention in the {' and '.join(map_paths)} path at other levels only"
            )
        self.strides = {level: latent_stride * 2**i for i, level in enumerate(self.levels)}
        self.channels = {
            level: channels + (context_length if level in recorded else 0)
            for level, channels in zip(self.levels, unet.config.block_out_channels, strict=True)
        }

    def forward(self, latents: Tensor, context: Context, timestep: float) -> dict[str, Tensor]:
        """
        Args:
            latents: B x 4 x h x w.
            context: B x N x D.
            timestep: the noise level that the UNet is told; TADP adds no noise and writes t = 0.

        Returns:
            level -> B x channels[level] x h/2^i x w/2^i, i = 0 for the first level.
        """
        unet = self.unet
        maps = AttentionMaps(self.map_gradient)
        condition = {
            "encoder_hidden_states": context.embeddings,
            "encoder_attention_mask": _bias(context.mask, latents.dtype),
            "cross_attention_kwargs": {"attention_maps": maps},
        }
        # In fp32, whatever the latents are: bf16 cannot tell neighbouring time steps apart.
        steps = torch.full((len(latents),), timestep, dtype=torch.float32, device=latents.device)
        time = unet.time_embedding(unet.time_proj(steps))

        hidden = unet.conv_in(latents)
        skips = [hidden]
        for block in unet.down_blocks:
            extra = condition if hasattr(block, "attentions") else {}
            hidden, outputs = block(hidden, time, **extra)
            skips.extend(outputs)
        if unet.mid_block is not None:
            hidden = unet.mid_block(hidden, time, **condition)
        features = {}
        for block, level in zip(unet.up_blocks, reversed(self.levels), strict=True):
            hidden, features[level] = _up(block, hidden, skips, time, condition)

        for level, level_maps in maps.take().items():
            spatial = level_maps.transpose(1, 2).unflatten(-1, features[level].shape[-2:])
            features[level] = torch.cat([features[level], spatial.to(features[level])], dim=1)
        return {level: features[level] for level in self.levels}


def _up(
    block: nn.Module, hidden: Tensor, skips: list[Tensor], time: Tensor, condition: dict
) -> tuple[Tensor, Tensor]:
    """Runs a block of the up path; returns what goes on upwards, and the feature map."""
    attentions = getattr(block, "attentions", None) or [None] * len(block.resnets)
    outputs = []
    for resnet, attention in zip(block.resnets, attentions, strict=True):
        hidden = torch.cat([hidden, skips.pop()], dim=1)
        if block.gradient_checkpointing and torch.is_grad_enabled():
            hidden = checkpoint(resnet, hidden, time, use_reentrant=False)
        else:
            hidden = resnet(hidden, time)
        if attention is not None:
            hidden = attention(hidden, **condition, return_dict=False)[0]
        outputs.append(hidden)
    if not block.upsamplers:
        return hidden, hidden
    for upsampler in block.upsamplers:
        hidden = upsampler(hidden, skips[-1].shape[-2:])
    return hidden, outputs[-2]


def _bias(mask: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """B x N, True = attend -> B x 1 x N, 0 = attend and -inf = not."""
    if mask is None:
        return None
    return torch.zeros_like(mask, dtype=dtype).masked_fill(~mask, -math.inf).unsqueeze(1)


def _set_processors(
    unet: UNet2DConditionModel,
    levels: list[str],
    map_levels: Collection[str],
    map_paths: Collection[str],
) -> set[str]:
    """Chooses fused or recorded attention for every layer; returns the levels that record."""
    recorded = set()
    processors: dict[str, FusedAttention | RecordedAttention] = {}
    for name in unet.attn_processors:
        processors[name] = FusedAttention()
        path, index = name.split(".")[0].removesuffix("_blocks"), name.split(".")[1]
        if ".attn2." not in name or path not in map_paths:
            continue
        level = (levels if path == "down" else levels[::-1])[int(index)]
        if level in map_levels:
            recorded.add(level)
            processors[name] = RecordedAttention(level)
    unet.set_attn_processor(processors)
    return recorded


def _check_architecture(unet: UNet2DConditionModel) -> None:
    config = unet.config
    unknown = (
        set(config.down_block_types) - _DOWN_BLOCKS,
        {config.mid_block_type} - _MID_BLOCKS,
        set(config.up_block_types) - _UP_BLOCKS,
        {key for key in _OTHER_CONDITIONS if config.get(key) is not None},
    )
    if any(unknown):
        names = ", ".join(sorted(map(str, set().union(*unknown))))
        raise UserError(f"this UNet is no Stable Diffusion 1.x or 2.x: {names} is not supported")


def unet_fingerprint(unet: UNet2DConditionModel) -> str:
    """`fingerprint` of the weights that features come from, without the output layers."""
    used = {n: child for n, child in unet.named_children() if n not in _OUTPUT_LAYERS}
    return fingerprint(nn.ModuleDict(used))


def load_unet(folder: Path) -> UNet2DConditionModel:
    """Loads a UNet folder in diffusers' format, in fp32.

    Raises:
        UserError: the folder does not hold a UNet, or its files are damaged.
    """
    check_unet_folder(folder)
    return _load(UNet2DConditionModel, folder)


def check_unet_folder(folder: Path) -> None:
    """
    Raises:
        UserError: the folder is none of a UNet.
    """
    if not (folder / "config.json").is_file():
        raise UserError(f"{folder}: expected a UNet folder in diffusers' format, with config.json")


def load_vae(folder: Path) -> AutoencoderKL:
    """Loads `vae/` of a Stable Diffusion folder, in fp32.

    Raises:
        UserError: its files are damaged.
    """
    return _load(AutoencoderKL, folder / "vae")


def _load(kind: type[ModelMixin], folder: Path) -> ModelMixin:
    with loading(folder):
        model, report = kind.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    check_complete(folder, report)
    return model
