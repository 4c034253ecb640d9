"""The UNet's features: `tadp_d2` against what the released wrapper does (`reference.py`).

Both sides hold the same weights and see the same inputs; before they are timed, features and
gradients must agree. `--size full` is Stable Diffusion 1.5 (860 M random weights) on a 512 x 512
image; the default is small, for a look.
"""

import argparse
import copy
import functools
import itertools
import shlex
import sys
from collections.abc import Callable

import torch
from diffusers import UNet2DConditionModel
from full_size import make_vae
from measure import Measurement, add_write, in_turns, matrix_rate, report
from reference import ReferenceFeatures
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.flop_counter import FlopCounterMode

from tadp_d2.diffusion.compiling import compile_passes
from tadp_d2.diffusion.diffusion_model import Context, MapOptions
from tadp_d2.diffusion.stable_diffusion import LatentEncoder
from tadp_d2.diffusion.unet_features import UNetFeatures
from tadp_d2.frozen import tensors_of

SIZES = {
    "small": (dict(block_out_channels=(32, 64, 96, 96), cross_attention_dim=32), 32),
    "full": (dict(block_out_channels=(320, 640, 1280, 1280), cross_attention_dim=768), 64),
}
TOLERANCE = 1e-4
OPTIONS = {
    "channels_last": lambda side: copy.deepcopy(side).to(memory_format=torch.channels_last),
    "compiled": lambda side: torch.compile(side, fullgraph=True),
    # Of another unet: the recorders of maps are part of it.
    "no_maps": lambda side: UNetFeatures(copy.deepcopy(side.unet), maps=MapOptions(levels=())),
    "openvino": lambda side: by_openvino(side),
}
# Widths of the VAE's levels, which is measured with the options that compute no gradients.
VAE_WIDTHS = {"small": (32, 32, 64, 64), "full": (128, 256, 512, 512)}
WITHOUT_GRADIENTS = ("openvino",)
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def by_openvino(side: nn.Module) -> nn.Module:
    """One that shares all weights, and computes as by MODEL.DIFFUSION.COMPILE openvino."""
    twin = copy.copy(side).eval()
    compile_passes("openvino", twin)
    return twin


def build(size: str, device: str) -> dict[str, nn.Module]:
    """Both sides, on equal weights."""
    torch.manual_seed(0)
    config, _ = SIZES[size]
    unet = UNet2DConditionModel(**config).to(device)
    twin = UNet2DConditionModel(**config).to(device)
    twin.load_state_dict(unet.state_dict())
    return {
        "reference": ReferenceFeatures(twin),
        "tadp_d2": UNetFeatures(unet, maps=MapOptions(gradient=False)),
    }


def features(side: nn.Module, latents: Tensor, context: Tensor) -> dict[str, Tensor]:
    return side(latents, context if isinstance(side, ReferenceFeatures) else Context(context), 0.0)


def forward(side: nn.Module, *inputs: Tensor) -> dict[str, Tensor]:
    with torch.no_grad():
        return features(side, *inputs)


def encode(side: nn.Module, images: Tensor) -> Tensor:
    with torch.no_grad():
        return side(images)


def forward_backward(side: nn.Module, *inputs: Tensor) -> None:
    side.zero_grad(set_to_none=False)
    sum(out.float().square().mean() for out in features(side, *inputs).values()).backward()


def disagreement(sides: dict[str, nn.Module], *inputs: Tensor) -> float:
    """The largest relative difference of a feature map or of all gradients together.

    Raises:
        SystemExit: it is larger than rounding.
    """
    reference, ours = (forward(side, *inputs) for side in sides.values())
    errors = [((ours[k] - reference[k]).norm() / reference[k].norm()).item() for k in ours]
    for side in sides.values():
        forward_backward(side, *inputs)
    grads, own = (dict(side.unet.named_parameters()) for side in sides.values())
    pairs = [(own[name].grad, grads[name].grad) for name in own]
    wrong = sum((a - b).square().sum().item() for a, b in pairs)
    errors.append((wrong / sum(b.square().sum().item() for _, b in pairs)) ** 0.5)
    if max(errors) > TOLERANCE:
        raise SystemExit(f"the sides disagree: relative error {max(errors):.1e}")
    return max(errors)


def operations(run: Callable[[], object]) -> int:
    """Floating-point operations of the matrix products and convolutions in a call.

    Fused attention on a CPU is not counted by torch: ask the reference, which does the same work.
    """
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


def row(what: str, dtype: str, found: dict[str, Measurement], share: str) -> str:
    reference, ours = found["reference"], found["tadp_d2"]
    return (
        f"| {what} | {dtype} | {reference} | {ours} | {reference.median / ours.median:.2f} | "
        f"{reference.peak / 2**20:.0f} | {ours.peak / 2**20:.0f} | {share} |"
    )


def compare_options(
    side: UNetFeatures, args: argparse.Namespace, inputs: tuple[Tensor, ...], device: str
) -> list[str]:
    """Rows that compare ours with and without what PyTorch offers to make it faster."""
    lines = [
        "| option | | type | without | with | times as fast | share of the matrix rate | with |"
    ]
    lines += ["| --- | --- | --- | --- | --- | --- | --- | --- |"]
    for option, dtype in itertools.product(args.options, args.dtypes):
        side.zero_grad()
        rate = matrix_rate(device, _DTYPES[dtype])
        for run, part, own in parts_of(option, side, args, inputs):
            pair = {"without": part, "with": OPTIONS[option](part)}
            calls = {name: functools.partial(run, one, *own) for name, one in pair.items()}
            with torch.autocast(device, dtype=_DTYPES[dtype], enabled=dtype != "fp32"):
                without, found = in_turns(calls, args.repeats, device).values()
            ratio = f"{without.median / found.median:.2f}"
            row = f"| {option} | {run.__name__} | {dtype} | {without} | {found} | {ratio} |"
            shares = ["", ""]
            if run is not forward_backward:
                work = products(run, part, own)
                shares = [f"{work / one.median / rate:.0%}" for one in (without, found)]
            lines.append(f"{row} {shares[0]} | {shares[1]} |")
            print(lines[-1], file=sys.stderr, flush=True)
    return lines


def products(run: Callable[..., object], part: nn.Module, inputs: tuple[Tensor, ...]) -> int:
    """As `operations`, with those of fused attention, which torch counts on the meta device."""
    # What is around it asks for the device's precision, and this device has none.
    part = part.vae.encoder if isinstance(part, LatentEncoder) else part
    empty = {name: tensor.detach().to("meta") for name, tensor in tensors_of(part).items()}
    twin = lambda *own: functional_call(part, empty, own)  # noqa: E731
    return operations(lambda: run(twin, *(tensor.to("meta") for tensor in inputs)))


def parts_of(
    option: str, side: UNetFeatures, args: argparse.Namespace, inputs: tuple[Tensor, ...]
) -> list[tuple[Callable[..., object], nn.Module, tuple[Tensor, ...]]]:
    """What is run with an option, of which module, on which inputs."""
    if option not in WITHOUT_GRADIENTS:
        return [(run, side, inputs) for run in (forward, forward_backward)]
    torch.manual_seed(0)  # whose export is then kept for the other precision
    encoder = LatentEncoder(make_vae(VAE_WIDTHS[args.size])).eval().requires_grad_(False)
    height, width = (encoder.stride * n for n in inputs[0].shape[-2:])
    images = torch.rand(args.batch, 3, height, width, device=inputs[0].device) * 2 - 1
    return [(forward, side, inputs), (encode, encoder, (images,))]


def compare_sides(
    sides: dict[str, nn.Module], args: argparse.Namespace, inputs: tuple[Tensor, ...], device: str
) -> list[str]:
    """Rows that compare the reference with ours."""
    lines = [
        f"Features and gradients agree to {disagreement(sides, *inputs):.0e} (fp32).",
        "",
        "| | type | reference: median (range) | tadp_d2 | times as fast | reference: MiB above "
        "weights | tadp_d2 | share of matrix rate |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    work = operations(functools.partial(forward, sides["reference"], *inputs))
    for name in args.dtypes:
        dtype = _DTYPES[name]
        rate = matrix_rate(device, dtype)
        with torch.autocast(device, dtype=dtype, enabled=name != "fp32"):
            for run in (forward, forward_backward):
                calls = {n: functools.partial(run, side, *inputs) for n, side in sides.items()}
                found = in_turns(calls, args.repeats, device)
                # A backward pass is two products for each one forward.
                passes = 1 if run is forward else 3
                share = f"{passes * work / found['tadp_d2'].median / rate:.0%}"
                lines.append(row(run.__name__, name, found, share))
            sides["tadp_d2"].unet.enable_gradient_checkpointing()
            found = in_turns(calls, args.repeats, device)
            lines.append(row("forward_backward, checkpointed", name, found, ""))
            sides["tadp_d2"].unet.disable_gradient_checkpointing()
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--dtypes", nargs="+", choices=_DTYPES, default=list(_DTYPES))
    parser.add_argument("--batch", type=int, default=1, help="images")
    parser.add_argument(
        "--options", nargs="+", choices=OPTIONS, default=[], help="compare ours with and without"
    )
    add_write(parser)
    args = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    config, width = SIZES[args.size]
    sides = build(args.size, device)
    inputs = (
        torch.randn(args.batch, 4, width, width, device=device),
        torch.randn(args.batch, 77, config["cross_attention_dim"], device=device),
    )
    if args.options:
        # Full-size copies are large: the reference goes.
        ours = sides["tadp_d2"]
        sides.clear()
        lines = compare_options(ours, args, inputs, device)
    else:
        lines = compare_sides(sides, args, inputs, device)
    command = shlex.join(["python", "benchmarks/backbone.py", *sys.argv[1:]])
    of = "options of the backbone" if args.options else "backbone"
    title = f"{of.capitalize()}, {args.size}, batch of {args.batch}, {device}"
    report(title, command, device, lines, args.write)


if __name__ == "__main__":
    main()
