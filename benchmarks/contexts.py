"""What the number of context tokens costs, and what the text costs for each image.

A training step of the UNet's features under the 150 class embeddings of ADE20K, beside one under a
prompt of 77 tokens, both with their attention maps; and the pass of the conditioner that makes the
contexts of a batch, as a share of the UNet's forward pass. `--size full` is Stable Diffusion 1.5.
"""

import argparse
import functools
import shlex
import sys

import torch
from backbone import SIZES, forward, forward_backward
from diffusers import UNet2DConditionModel
from measure import add_write, in_turns, report

from tadp_d2.conditioning.class_embeddings import ClassEmbeddings
from tadp_d2.diffusion.diffusion_model import MapOptions
from tadp_d2.diffusion.unet_features import UNetFeatures

PROMPT, CLASSES = 77, 150


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--batch", type=int, default=2, help="images")
    add_write(parser)
    args = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    config, width = SIZES[args.size]
    torch.manual_seed(0)
    unet = UNet2DConditionModel(**config).to(device)
    latents = torch.randn(args.batch, 4, width, width, device=device)
    channels = config["cross_attention_dim"]
    steps = {}
    for tokens in (PROMPT, CLASSES):
        features = UNetFeatures(unet, maps=MapOptions(tokens=tokens))
        context = torch.randn(args.batch, tokens, channels, device=device)
        steps[str(tokens)] = functools.partial(forward_backward, features, latents, context)
    conditioner = ClassEmbeddings(
        [str(number) for number in range(CLASSES)], torch.randn(CLASSES, channels), {}
    ).to(device)
    inputs = [{}] * args.batch
    step = in_turns(steps, args.repeats, device)
    passes = {
        "class embeddings": lambda: conditioner(inputs, latents, latents),
        "UNet": functools.partial(forward, features, latents, context),
    }
    text = in_turns(passes, args.repeats, device)
    prompt, classes = step.values()
    embedded, network = text.values()
    lines = [
        "| | seconds | ratio |",
        "| --- | --- | --- |",
        f"| training step, N = {PROMPT} | {prompt} | |",
        f"| training step, N = {CLASSES} | {classes} | {classes.median / prompt.median:.2f} |",
        f"| UNet, forward, N = {CLASSES} | {network} | |",
        f"| contexts of {CLASSES} classes | {embedded} | {embedded.median / network.median:.1e} |",
    ]
    command = shlex.join(["python", "benchmarks/contexts.py", *sys.argv[1:]])
    report(
        f"Contexts, {args.size}, batch of {args.batch}, {device}",
        command,
        device,
        lines,
        args.write,
    )


if __name__ == "__main__":
    main()
