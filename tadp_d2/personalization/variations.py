"""Image-to-image: what a diffusion model makes of an image under a prompt (TADP, figure S1).

The image's latents get noise, the more the greater the strength, and the noise is removed under the
prompt. All variations of a call begin with the same noise.
"""

from collections.abc import Sequence

import numpy as np
import torch
from diffusers import StableDiffusionImg2ImgPipeline
from PIL import Image

from tadp_d2.errors import UserError
from tadp_d2.personalization.model import TrainableDiffusion
from tadp_d2.personalization.samples import GUIDANCE


def fit(image: Image.Image, side: int, divisor: int) -> Image.Image:
    """The image at the size at which it is varied: its shorter side about `side` pixels.

    Args:
        side: at least `divisor`.
        divisor: by which both sides divide then; the nearest multiples are taken.
    """
    scale = side / min(image.size)
    size = [max(1, round(scale * own / divisor)) * divisor for own in image.size]
    return image.resize(size, Image.Resampling.BICUBIC)


def check_strengths(strengths: Sequence[float], steps: int) -> None:
    """
    Raises:
        UserError: a strength is out of range, or too small for a single step.
    """
    for strength in strengths:
        if not 0 < strength <= 1 or int(steps * strength) < 1:
            raise UserError(
                f"strength {strength:g}: expected more than 0, at most 1, and with {steps} steps "
                f"at least {1 / steps:g}, which is one step"
            )


@torch.no_grad()
def draw_variations(
    model: TrainableDiffusion,
    image: Image.Image,
    prompts: Sequence[str],
    strengths: Sequence[float],
    steps: int,
    precision: str,
    seed: int,
) -> list[list[Image.Image]]:
    """A row of variations for each prompt, with one for each strength.

    Args:
        image: of sides that divide by `model.divisor`.
        strengths: above 0, at most 1: the share of the sampler's steps that are done, and with it
            of the noise that is added.
        steps: of the sampler, from noise alone.

    Raises:
        UserError: as `check_strengths`.
    """
    check_strengths(strengths, steps)
    parts = model.pipeline().components
    parts.pop("image_encoder", None)
    pipeline = StableDiffusionImg2ImgPipeline(**parts, requires_safety_checker=False)
    pipeline.set_progress_bar_config(disable=True)
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 127.5 - 1
    latents = model.encode(pixels)
    rows, empty = [], model.context([""])
    for prompt in prompts:
        row, context = [], model.context([prompt])
        for strength in strengths:
            with model.autocast(precision):
                varied = pipeline(
                    prompt_embeds=context,
                    negative_prompt_embeds=empty,
                    image=latents,
                    strength=strength,
                    num_inference_steps=steps,
                    guidance_scale=GUIDANCE,
                    generator=torch.Generator().manual_seed(seed),
                    output_type="latent",
                ).images
            decoded = model.decode(varied)
            row += pipeline.image_processor.postprocess(decoded, output_type="pil")
        rows.append(row)
    return rows
