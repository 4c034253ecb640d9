"""How a diffusion model's passes are brought to the device: `MODEL.DIFFUSION.COMPILE`."""

import os
import shutil

from diffusers.models.attention import BasicTransformerBlock, JointTransformerBlock
from diffusers.models.resnet import ResnetBlock2D
from torch import nn

from tadp_d2.diffusion.attention import RecordedAttention
from tadp_d2.diffusion.cuda_graphs import GraphedPass
from tadp_d2.diffusion.openvino_pass import OpenVINOPass
from tadp_d2.errors import UserError

# Kinds and shapes of blocks that are compiled; further ones are computed without.
_KINDS = 256


def compile_passes(how: str, *modules: nn.Module) -> None:
    """Sets how modules compute from now on, whatever was set before.

    Args:
        how: a value of `MODEL.DIFFUSION.COMPILE`.
        modules: the latent encoder, the features.

    Raises:
        UserError: there is no compiler, or no OpenVINO.
    """
    parts = [part for module in modules for part in repeated_blocks(module)]
    if "blocks" in how:
        _check_compiler()
        # Here, because it takes a second.
        import torch._dynamo

        torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, _KINDS)
    for part in parts:
        if "blocks" in how:
            part.compile(dynamic=False)
        else:
            part._compiled_call_impl = None
    for module in modules:
        # That of the object hides that of the class.
        vars(module).pop("forward", None)
        if "graphs" in how:
            module.forward = GraphedPass(module, module.forward)
        elif how == "openvino":
            module.forward = OpenVINOPass(module, module.forward)


def repeated_blocks(network: nn.Module) -> list[nn.Module]:
    """The parts that occur many times; what records attention maps is left out."""
    blocks: list[nn.Module] = []
    for module in network.modules():
        if isinstance(module, ResnetBlock2D | JointTransformerBlock):
            blocks.append(module)
        elif isinstance(module, BasicTransformerBlock):
            attention = [a for a in (module.attn1, module.attn2) if a is not None]
            fused = [a for a in attention if not isinstance(a.processor, RecordedAttention)]
            # The recorder holds other maps with each layer, so that a block would be another each.
            blocks += [module] if fused == attention else [*fused, module.ff]
    return blocks


def _check_compiler() -> None:
    compiler = os.environ.get("CXX", "g++")
    if not shutil.which(compiler):
        raise UserError(
            f"MODEL.DIFFUSION.COMPILE asks for compiled blocks, which need a C++ compiler, and "
            f"there is no {compiler}: install it, name another one in the environment variable "
            "CXX, or leave the key without blocks"
        )
