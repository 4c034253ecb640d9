"""Time and memory of the backbones, image to features, at the published sizes on a CPU.

Weights are random, in fp32; one image of 512 x 512, one thread, forward only, the second of two
passes. Each backbone has a process of its own, whose peak includes the libraries.

    python benchmarks/families.py
"""

import argparse
import multiprocessing
import resource
import time
from collections.abc import Callable
from functools import partial

import torch
from diffusers import SD3Transformer2DModel, UNet2DConditionModel
from full_size import make_unet, make_vae
from measure import add_write, report
from torch import Tensor, nn
from transformers import (
    ConvNextBackbone,
    ConvNextConfig,
    Dinov2Backbone,
    Dinov2Config,
    SwinBackbone,
    SwinConfig,
)

from tadp_d2.diffusion.diffusion_model import Context
from tadp_d2.diffusion.stable_diffusion import LatentEncoder
from tadp_d2.diffusion.stable_diffusion_3 import T5_LENGTH, TransformerFeatures
from tadp_d2.diffusion.stable_diffusion_xl import XLFeatures
from tadp_d2.diffusion.unet_features import UNetFeatures

SIDE, TOKENS = 512, 77


class Diffusion(nn.Module):
    """VAE encoder and features, under a text of some embeddings and a pooled one."""

    def __init__(
        self, features: nn.Module, width: int, pooled: int, tokens: int, latent_channels: int
    ):
        super().__init__()
        self.encoder = LatentEncoder(make_vae(latent_channels=latent_channels))
        self.features = features
        self._text, self._pooled = (1, tokens, width), (1, pooled)

    def forward(self, images: Tensor) -> list[Tensor]:
        context = Context(torch.zeros(self._text), None, torch.zeros(self._pooled))
        return list(self.features(self.encoder(images), context, 0.0).values())


def of_unet(unet: UNet2DConditionModel, kind: type[UNetFeatures] = UNetFeatures) -> nn.Module:
    config = unet.config
    return Diffusion(kind(unet), config.cross_attention_dim, 1280, TOKENS, config.in_channels)


def stable_diffusion_2() -> nn.Module:
    return of_unet(
        UNet2DConditionModel(
            sample_size=64,
            cross_attention_dim=1024,
            attention_head_dim=[5, 10, 20, 20],
            use_linear_projection=True,
        )
    )


def stable_diffusion_xl() -> nn.Module:
    unet = UNet2DConditionModel(
        sample_size=128,
        block_out_channels=(320, 640, 1280),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=[1, 2, 10],
        attention_head_dim=[5, 10, 20],
        cross_attention_dim=2048,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=256,
        projection_class_embeddings_input_dim=2816,
    )
    return of_unet(unet, XLFeatures)


def stable_diffusion_3() -> nn.Module:
    """The medium one, under a text that CLIP and T5 read."""
    transformer = SD3Transformer2DModel(
        sample_size=128,
        in_channels=16,
        num_layers=24,
        num_attention_heads=24,
        caption_projection_dim=1536,
        out_channels=16,
        pos_embed_max_size=192,
    )
    width, pooled = transformer.config.joint_attention_dim, transformer.config.pooled_projection_dim
    return Diffusion(TransformerFeatures(transformer), width, pooled, TOKENS + T5_LENGTH, 16)


def dinov2_l() -> nn.Module:
    sizes = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16}
    return Dinov2Backbone(Dinov2Config(**sizes, image_size=518, patch_size=14))


def swin_l() -> nn.Module:
    sizes = {"embed_dim": 192, "depths": [2, 2, 18, 2], "num_heads": [6, 12, 24, 48]}
    stages = ["stage1", "stage2", "stage3", "stage4"]
    return SwinBackbone(SwinConfig(**sizes, window_size=12, image_size=384, out_features=stages))


def convnext_l() -> nn.Module:
    sizes = {"depths": [3, 3, 27, 3], "hidden_sizes": [192, 384, 768, 1536]}
    stages = ["stage1", "stage2", "stage3", "stage4"]
    return ConvNextBackbone(ConvNextConfig(**sizes, out_features=stages))


# Name -> how it is made, and the side of its image: a multiple of its patches.
BACKBONES: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "Stable Diffusion 1.5": (lambda: of_unet(make_unet()), SIDE),
    "Stable Diffusion 2.1": (stable_diffusion_2, SIDE),
    "Stable Diffusion XL": (stable_diffusion_xl, SIDE),
    "Stable Diffusion 3 medium": (stable_diffusion_3, SIDE),
    "DINOv2-L": (dinov2_l, 504),
    "Swin-L": (swin_l, SIDE),
    "ConvNeXt-L": (convnext_l, SIDE),
}


@torch.inference_mode()
def measure(name: str) -> tuple[float, float, float]:
    """Millions of weights, seconds of the processor, and GiB at the peak."""
    torch.set_num_threads(1)
    make, side = BACKBONES[name]
    with torch.device("meta"):
        model = make().eval()
    model = model.to_empty(device="cpu")
    generator = torch.Generator().manual_seed(0)
    for values in (*model.parameters(), *model.buffers()):
        if values.is_floating_point():
            values.normal_(0, 0.02, generator=generator)
        else:
            values.zero_()
    image = torch.zeros(1, 3, side, side)
    for _ in range(2):
        start = time.process_time()
        model(image)
        seconds = time.process_time() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return sum(p.numel() for p in model.parameters()) / 1e6, seconds, peak


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=BACKBONES, default=[*BACKBONES])
    add_write(parser)
    args = parser.parse_args()
    lines = ["| backbone | image | weights, millions | forward, s | peak, GiB |"]
    lines.append("| --- | --- | --- | --- | --- |")
    context = multiprocessing.get_context("spawn")
    for name in args.only:
        with context.Pool(1) as pool:
            weights, seconds, peak = pool.apply(partial(measure, name))
        side = BACKBONES[name][1]
        lines.append(f"| {name} | {side} x {side} | {weights:.0f} | {seconds:.1f} | {peak:.1f} |")
        print(lines[-1], flush=True)
    command = "python benchmarks/families.py"
    report("Backbones at the published sizes", command, "cpu", lines, args.write)


if __name__ == "__main__":
    main()
