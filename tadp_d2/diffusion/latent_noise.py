"""Noise on latents, as a diffusion model was trained with it; and the schedule that sets how much.

In training it is drawn anew. In testing that of an image is always the same.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from diffusers import DDPMScheduler
from torch import Tensor

from tadp_d2.diffusion.model_folder import Format, loading
from tadp_d2.errors import UserError
from tadp_d2.randomness import derive_seed

_SCHEDULE = Format(
    "noise schedule",
    (("scheduler/scheduler_config.json",),),
    (),
    "MODEL.DIFFUSION.NOISE_TIMESTEP adds noise as the base model was trained with it; 0 adds none",
)


class LatentNoise:
    """z -> sqrt(a) z + sqrt(1 - a) e, where a is what a time step leaves of a latent's variance.

    The latent is taken as the UNet gets it, scaled or not.
    """

    def __init__(self, kept: float, seed: int = 0):
        """
        Args:
            kept: a, in 0..1; 1 adds no noise.
            seed: of the noise in testing.
        """
        self.kept = kept
        self.seed = seed

    def add(self, latents: Tensor, images: Sequence[int] | None, training: bool) -> Tensor:
        """
        Args:
            latents: B x C x h x w.
            images: B numbers that stand for the images in testing; None for one for all.
        """
        if self.kept == 1:
            return latents
        if training:
            noise = torch.randn_like(latents)
        else:
            drawn = [self._draw(latents.shape[1:], i) for i in images or [0] * len(latents)]
            noise = torch.stack(drawn).to(latents)
        return self.kept**0.5 * latents + (1 - self.kept) ** 0.5 * noise

    def _draw(self, shape: torch.Size, image: int) -> Tensor:
        # On the CPU, so that it is the same on every device.
        generator = torch.Generator().manual_seed(derive_seed("latents", self.seed, image))
        return torch.randn(shape, generator=generator)


def kept_variance(folder: Path, timestep: int) -> float:
    """What a time step of a model's noise schedule leaves of the variance of a latent, in 0..1.

    Raises:
        UserError: the model has no such schedule, or it is shorter.
    """
    _SCHEDULE.check(folder)
    steps = load_scheduler(folder / "scheduler").alphas_cumprod
    if timestep >= len(steps):
        raise UserError(
            f"MODEL.DIFFUSION.NOISE_TIMESTEP is {timestep}: the noise schedule of {folder} has the "
            f"time steps 0 to {len(steps) - 1}"
        )
    return float(steps[timestep])


def load_scheduler(folder: Path) -> DDPMScheduler:
    """The noise schedule of a model's scheduler, whatever sampler that is.

    Raises:
        UserError: it is of another kind of diffusion, or its file is damaged.
    """
    with loading(folder):
        config = DDPMScheduler.load_config(folder)
        scheduler = DDPMScheduler.from_config(config)
    betas = ("beta_start", "beta_end", "beta_schedule")
    if not config.keys() >= set(betas):
        raise UserError(
            f"{folder}: {config.get('_class_name')} is no noise schedule of Stable Diffusion; "
            f"expected one with {', '.join(betas)}, such as that of a DDPMScheduler"
        )
    return scheduler
