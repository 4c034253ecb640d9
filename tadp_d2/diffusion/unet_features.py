"""Latent, context and time step -> feature maps of a UNet, with its attention maps.

This module knows diffusers' UNet and nothing of folders, captions or Detectron2.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tadp_d2.diffusion.attention import (
    AttentionMaps,
    FusedAttention,
    RecordedAttention,
    self_name,
)
from tadp_d2.diffusion.diffusion_model import Context, MapOptions, level_strides
from tadp_d2.diffusion.model_part import UNET, Part
from tadp_d2.errors import UserError
from tadp_d2.frozen import fingerprint

_PATHS = ("down", "mid", "up")
# Not computed: they turn the last feature map into noise.
_OUTPUT_LAYERS = ("conv_norm_out", "conv_act", "conv_out")


class UNetFeatures(nn.Module):
    """One pass of a denoising UNet, from which feature maps are returned instead of noise.

    A level is named as by `level_strides`: "s3" is stride 8. Features come from the up path:
    after the last layer of its last block, and after the last but one of every other block, that
    is, the second of three in Stable Diffusion 1.x (VPD, section 3.3, as released). At the levels
    of `MapOptions` the attention maps, averaged over heads and layers, follow the features'
    channels.

    Attributes:
        part: what may be in the UNet's config.
    """

    part: ClassVar[Part] = UNET

    def __init__(
        self,
        unet: UNet2DConditionModel,
        latent_stride: int = 8,
        maps: MapOptions = MapOptions(),  # noqa: B008 (it is frozen)
        taps: Sequence[int] = (),
    ):
        """
        Args:
            unet: its output layers are dropped.
            latent_stride: image pixels per latent pixel.
            taps: for each level, the finest first, the layer of its block of the up path whose
                output is the feature map, counted from 0; empty for those named above.

        Raises:
            UserError: the UNet is of a kind that this class does not know, has no cross-attention
                at a level that is to have maps, or no such layers.
        """
        super().__init__()
        self.part.check_config(unet.config, "this UNet")
        self.options = self.part.options(unet.config)
        # Of the weights as they came, whatever training or a checkpoint makes of them; none for a
        # model of shapes without weights.
        self.base_fingerprint = "" if unet.device.type == "meta" else unet_fingerprint(unet)
        # No parameters either: one without a gradient stops distributed training.
        for name in _OUTPUT_LAYERS:
            setattr(unet, name, None)
        # Nor what a model distilled for few steps (LCM) is told of guidance: here it is told none.
        unet.time_embedding.cond_proj = None
        self.unet = unet
        self.strides = level_strides(latent_stride, len(unet.up_blocks))
        self.levels = list(self.strides)
        self.taps = _check_taps(unet, self.levels, taps)
        recorded = self._record(maps)
        if recorded != set(maps.levels):
            raise UserError(
                f"attention maps at {', '.join(sorted(set(maps.levels) - recorded))}: this UNet "
                f"has cross-attention in the {' and '.join(maps.paths)} path at other levels only"
            )

    def record_all(self) -> list[str]:
        """From now on the maps of every cross-attention layer follow the features, and no others.

        To look at them: a head was built for the maps that it was built for.

        Returns:
            The levels that have such layers.
        """
        everywhere = replace(self.maps, levels=self.levels, paths=_PATHS, self_attention=())
        return sorted(self._record(everywhere))

    def _record(self, maps: MapOptions) -> set[str]:
        """Chooses the layers whose maps follow the features; returns the levels that have such."""
        self.maps = maps
        recorded = _set_processors(self.unet, self.levels, maps)
        widths = self.unet.config.block_out_channels
        self.channels = {
            level: channels + (self._map_channels(level) if level in recorded else 0)
            for level, channels in zip(self.levels, widths, strict=True)
        }
        return recorded

    def _map_channels(self, level: str) -> int:
        places = math.prod(math.ceil(n / self.strides[level]) for n in self.maps.self_attention)
        return self.maps.tokens + (places if self.maps.self_attention else 0)

    def forward(self, latents: Tensor, context: Context, timestep: float) -> dict[str, Tensor]:
        """
        Args:
            latents: B x 4 x h x w.
            context: B x N x D.
            timestep: the noise level that the UNet is conditioned on; TADP adds no noise and writes
                t = 0.

        Returns:
            level -> B x channels[level] x h/2^i x w/2^i, i = 0 for the first level.

        Raises:
            UserError: the latents are of another size than that of the self-attention maps.
        """
        unet = self.unet
        self._check_size(latents)
        recorder = AttentionMaps(self.maps.gradient)
        condition = {
            "encoder_hidden_states": context.embeddings,
            "encoder_attention_mask": _bias(context.mask, latents.dtype),
            "cross_attention_kwargs": {"attention_maps": recorder},
        }
        time = self._embed_time(latents, context, timestep)

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
            hidden, outputs = _up(block, hidden, skips, time, condition)
            features[level] = outputs[self.taps[level]]

        maps = recorder.take()
        for level in features:
            for name in (level, self_name(level)):
                if name in maps:
                    spatial = maps[name].transpose(1, 2).unflatten(-1, features[level].shape[-2:])
                    features[level] = torch.cat([features[level], spatial.to(hidden)], dim=1)
        return {level: features[level] for level in self.levels}

    def _check_size(self, latents: Tensor) -> None:
        stride = self.strides[self.levels[0]]
        expected = self.maps.self_attention
        found = tuple(stride * n for n in latents.shape[-2:])
        if expected and found != tuple(expected):
            raise UserError(
                f"an image of {found[0]} x {found[1]} pixels (height x width) came to the UNet, "
                f"whose self-attention maps are for {expected[0]} x {expected[1]}: set "
                "INPUT.FIXED_SIZE_TRAIN and FIXED_SIZE_TEST to that size, or choose no "
                "self-attention maps"
            )

    def _embed_time(self, latents: Tensor, context: Context, timestep: float) -> Tensor:
        """What each layer learns of the time step, and of all else that has no place, B x C."""
        # In fp32, whatever the latents are: bf16 cannot distinguish neighboring time steps.
        steps = torch.full(
            (latents.shape[0],), timestep, dtype=torch.float32, device=latents.device
        )
        return self.unet.time_embedding(self.unet.time_proj(steps))


def _up(
    block: nn.Module, hidden: Tensor, skips: list[Tensor], time: Tensor, condition: dict
) -> tuple[Tensor, list[Tensor]]:
    """Runs a block of the up path; returns what goes on upwards, and the output of each layer."""
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
    for upsampler in block.upsamplers or ():
        hidden = upsampler(hidden, skips[-1].shape[-2:])
    return hidden, outputs


def _check_taps(
    unet: UNet2DConditionModel, levels: Sequence[str], taps: Sequence[int]
) -> dict[str, int]:
    """Level -> the layer of its block whose output is taken.

    Raises:
        UserError: as `UNetFeatures`.
    """
    layers = [len(block.resnets) for block in reversed(unet.up_blocks)]
    # The finest level's last; of the others the last but one.
    taps = list(taps) or [layers[0] - 1, *(n - 2 for n in layers[1:])]
    if len(taps) != len(layers) or not all(0 <= t < n for t, n in zip(taps, layers, strict=True)):
        expected = ", ".join(
            f"{level} 0 to {n - 1}" for level, n in zip(levels, layers, strict=True)
        )
        raise UserError(
            f"MODEL.DIFFUSION.TAPS is {tuple(taps)}: expected a layer for each level of this "
            f"UNet, {expected}; or none for the papers'"
        )
    return dict(zip(levels, taps, strict=True))


def _bias(mask: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """B x N, True = attend -> B x 1 x N, 0 = attend and -inf = not."""
    if mask is None:
        return None
    return torch.zeros_like(mask, dtype=dtype).masked_fill(~mask, -math.inf).unsqueeze(1)


def _set_processors(
    unet: UNet2DConditionModel,
    levels: list[str],
    maps: MapOptions,
) -> set[str]:
    """Chooses fused or recorded attention for every layer; returns the levels that record."""
    recorded = set()
    processors: dict[str, FusedAttention | RecordedAttention] = {}
    for name in unet.attn_processors:
        processors[name] = FusedAttention()
        path, level = _place(name, levels)
        if path in maps.paths and level in maps.levels:
            if ".attn2." in name:
                recorded.add(level)
                processors[name] = RecordedAttention(level)
            elif maps.self_attention:
                processors[name] = RecordedAttention(self_name(level))
    unet.set_attn_processor(processors)
    return recorded


def _place(name: str, levels: list[str]) -> tuple[str, str]:
    """Path and level of the layer that a parameter or processor of diffusers' UNet belongs to."""
    block, index, *_ = name.split(".")
    if block == "mid_block":
        # At the size of the coarsest level's features.
        return "mid", levels[-1]
    path = block.removesuffix("_blocks")
    return path, (levels if path == "down" else levels[::-1])[int(index)]


def unet_fingerprint(unet: UNet2DConditionModel) -> str:
    """`fingerprint` of the weights that features come from, without the output layers."""
    used = {n: child for n, child in unet.named_children() if n not in _OUTPUT_LAYERS}
    return fingerprint(nn.ModuleDict(used))
