"""Time of the UNet's features: fused attention against explicit softmax everywhere.

Both sides run in this process on the same weights and inputs, alternating, after a check that
their outputs agree. `--size full` is Stable Diffusion 1.5 (860 M random weights) on a 512 x 512
picture; the default is small. The result is a ratio; the hardware is printed with it.
"""

import argparse
import platform
import statistics
import time
from collections.abc import Callable

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor

from tadp_d2.modeling.attention import AttentionMaps, FusedAttention, RecordedAttention
from tadp_d2.modeling.stable_diffusion import UNetFeatures
from tadp_d2.text.conditioning import Context

SIZES = {
    "small": (dict(block_out_channels=(32, 64, 96, 96), cross_attention_dim=32), 32),
    "full": (dict(block_out_channels=(320, 640, 1280, 1280), cross_attention_dim=768), 64),
}
TOLERANCE = 1e-4
# Name of a layer -> how it computes attention, as diffusers keeps them.
Processors = dict[str, FusedAttention | RecordedAttention]


class ExplicitAttention(RecordedAttention):
    """Softmax written out, map dropped: what the released wrapper does in every layer."""

    def __init__(self):
        super().__init__(level="")

    def __call__(self, *args: Tensor, attention_maps: AttentionMaps | None = None, **kwargs):
        return super().__call__(*args, **kwargs)


def explicit(processors: Processors) -> Processors:
    """The same with every fused attention written out."""
    return {
        name: ExplicitAttention() if isinstance(processor, FusedAttention) else processor
        for name, processor in processors.items()
    }


def forward(features: UNetFeatures, latents: Tensor, context: Context) -> dict[str, Tensor]:
    with torch.no_grad():
        return features(latents, context, 0)


def forward_backward(features: UNetFeatures, latents: Tensor, context: Context) -> None:
    features.zero_grad()
    sum(out.square().mean() for out in features(latents, context, 0).values()).backward()


def check(features: UNetFeatures, sides: dict[str, Processors], *inputs) -> float:
    """The largest relative difference of a feature map between the two sides."""
    outputs = []
    for side in sides.values():
        features.unet.set_attn_processor(dict(side))
        outputs.append(forward(features, *inputs))
    ours, reference = outputs
    errors = [((ours[k] - reference[k]).norm() / reference[k].norm()).item() for k in ours]
    if max(errors) > TOLERANCE:
        raise SystemExit(f"the sides disagree: relative error {max(errors):.1e}")
    return max(errors)


def measure(
    run: Callable, features: UNetFeatures, sides: dict[str, Processors], *inputs, repeats: int
) -> None:
    """Prints median and spread of both sides, run in turns after a warm-up, and their ratio."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(repeats + 1):
        for name, side in sides.items():
            features.unet.set_attn_processor(dict(side))
            start = time.perf_counter()
            run(features, *inputs)
            if inputs[0].is_cuda:
                torch.cuda.synchronize()
            if turn:
                seconds[name].append(time.perf_counter() - start)
    for name, values in seconds.items():
        print(
            f"{run.__name__:17} {name:9} median {statistics.median(values) * 1e3:9.1f} ms, "
            f"range {min(values) * 1e3:.1f} to {max(values) * 1e3:.1f}"
        )
    ours, reference = (statistics.median(values) for values in seconds.values())
    print(f"{run.__name__:17} ratio     {reference / ours:.2f} times as fast", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--repeats", type=int, default=7)
    args = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    config, width = SIZES[args.size]
    torch.manual_seed(0)
    features = UNetFeatures(UNet2DConditionModel(**config)).to(device)
    processors = features.unet.attn_processors
    sides = {"tadp_d2": processors, "explicit": explicit(processors)}
    latents = torch.randn(1, 4, width, width, device=device)
    context = Context(torch.randn(1, 77, config["cross_attention_dim"], device=device))
    print(
        f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}, "
        f"{torch.cuda.get_device_name() if device == 'cuda' else 'cpu'}, size {args.size}"
    )
    print(f"outputs agree to {check(features, sides, latents, context):.1e}")
    for run in (forward, forward_backward):
        measure(run, features, sides, latents, context, repeats=args.repeats)


if __name__ == "__main__":
    main()
