"""The UNet's features: `tadp_d2` against what the released wrapper does (`reference.py`).

Both sides hold the same weights and see the same inputs; before they are timed, features and
gradients must agree. `--size full` is Stable Diffusion 1.5 (860 M random weights) on a 512 x 512
picture; the default is small, for a look.
"""

import argparse
import copy
import functools
from collections.abc import Callable

import torch
from diffusers import UNet2DConditionModel
from measure import Measurement, add_write, in_turns, matrix_rate, report
from reference import ReferenceFeatures
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from tadp_d2.modeling.stable_diffusion import UNetFeatures
from tadp_d2.text.conditioning import Context

SIZES = {
    "small": (dict(block_out_channels=(32, 64, 96, 96), cross_attention_dim=32), 32),
    "full": (dict(block_out_channels=(320, 640, 1280, 1280), cross_attention_dim=768), 64),
}
TOLERANCE = 1e-4
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def build(size: str, device: str) -> dict[str, nn.Module]:
    """Both sides, on equal weights."""
    torch.manual_seed(0)
    config, _ = SIZES[size]
    unet = UNet2DConditionModel(**config).to(device)
    twin = UNet2DConditionModel(**config).to(device)
    twin.load_state_dict(unet.state_dict())
    return {"reference": ReferenceFeatures(twin), "tadp_d2": UNetFeatures(unet, map_gradient=False)}


def features(side: nn.Module, latents: Tensor, context: Tensor) -> dict[str, Tensor]:
    return side(latents, context if isinstance(side, ReferenceFeatures) else Context(context), 0.0)


def forward(side: nn.Module, *inputs: Tensor) -> dict[str, Tensor]:
    with torch.no_grad():
        return features(side, *inputs)


def forward_backward(side: nn.Module, *inputs: Tensor) -> None:
    side.zero_grad(set_to_none=False)
    sum(out.float().square().mean() for out in features(side, *inputs).values()).backward()


def disagreement(sides: dict[str, nn.Module], *inputs: Tensor) -> float:
    """The largest relative difference of a feature map or of all gradients together."""
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
    """Floating-point operations of the matrix products and convolutions in a call."""
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
    features: UNetFeatures, inputs: tuple[Tensor, ...], dtype: str, repeats: int, device: str
) -> list[str]:
    """Rows that compare ours with and without what PyTorch offers to make it faster."""
    lines = []
    for name, make in (
        ("channels_last", lambda: copy.deepcopy(features).to(memory_format=torch.channels_last)),
        ("compiled", lambda: torch.compile(features, fullgraph=True)),
    ):
        other = make()
        for run in (forward, forward_backward):
            sides = {"without": features, "with": other}
            calls = {n: functools.partial(run, side, *inputs) for n, side in sides.items()}
            found = in_turns(calls, repeats, device)
            ratio = found["without"].median / found["with"].median
            lines.append(
                f"| {name} | {run.__name__} | {dtype} | {found['without']} | {found['with']} | "
                f"{ratio:.2f} |"
            )
        del other
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--dtypes", nargs="+", choices=_DTYPES, default=list(_DTYPES))
    parser.add_argument(
        "--options", action="store_true", help="also channels_last and torch.compile"
    )
    add_write(parser)
    args = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    config, width = SIZES[args.size]
    sides = build(args.size, device)
    inputs = (
        torch.randn(1, 4, width, width, device=device),
        torch.randn(1, 77, config["cross_attention_dim"], device=device),
    )
    lines = [
        f"Features and gradients agree to {disagreement(sides, *inputs):.0e} (fp32).",
        "",
        "| | type | reference: median (range) | tadp_d2 | times as fast | reference: MiB above "
        "weights | tadp_d2 | share of matrix rate |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    of_options = ["", "| option | | type | without | with | times as fast |"]
    of_options += ["| --- | --- | --- | --- | --- | --- |"]
    work = operations(functools.partial(forward, sides["tadp_d2"], *inputs))
    for name in args.dtypes:
        dtype = _DTYPES[name]
        rate = matrix_rate(device, dtype)
        with torch.autocast(device, dtype=dtype, enabled=name != "fp32"):
            for run in (forward, forward_backward):
                calls = {n: functools.partial(run, side, *inputs) for n, side in sides.items()}
                found = in_turns(calls, args.repeats, device)
                share = f"{work / found['tadp_d2'].median / rate:.0%}" if run is forward else ""
                lines.append(row(run.__name__, name, found, share))
            sides["tadp_d2"].unet.enable_gradient_checkpointing()
            found = in_turns(calls, args.repeats, device)
            lines.append(row("forward_backward, checkpointed", name, found, ""))
            sides["tadp_d2"].unet.disable_gradient_checkpointing()
            if args.options:
                ours = sides["tadp_d2"]
                of_options += compare_options(ours, inputs, name, args.repeats, device)
    if args.options:
        lines += of_options
    command = f"python benchmarks/backbone.py --size {args.size} --repeats {args.repeats}"
    report(f"Backbone, {args.size}, {device}", command, device, lines, args.write)


if __name__ == "__main__":
    main()
