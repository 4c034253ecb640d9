"""What is learned: to remove noise from latents under a prompt (DDPM's simplified objective)."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

import torch
from diffusers import DDPMScheduler
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import AdamW, Optimizer

from tadp_d2.personalization.latents import LatentSource
from tadp_d2.personalization.model import TrainableDiffusion
from tadp_d2.personalization.settings import PersonalizationSettings

# Images whose loss is followed.
WATCHED = 8


def draw_noise(
    latents: Tensor, scheduler: DDPMScheduler, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Noise of the latents' shape, and a time step for each of them.

    Args:
        generator: on the CPU; the results are on the latents' device.
    """
    noise = torch.randn(latents.shape, generator=generator)
    times = torch.randint(
        scheduler.config.num_train_timesteps, (len(latents),), generator=generator
    )
    return noise.to(latents.device), times.to(latents.device)


def denoising_loss(
    model: TrainableDiffusion, latents: Tensor, context: Tensor, noise: Tensor, times: Tensor
) -> Tensor:
    """Mean squared error of the UNet's prediction, of the noise or the velocity.

    Args:
        latents, noise: B x 4 x h x w.
        context: B x N x D.
        times: B, time steps.
    """
    noisy = model.scheduler.add_noise(latents, noise, times)
    predicted = model.unet(noisy, times, encoder_hidden_states=context).sample
    wanted = noise
    if model.scheduler.config.prediction_type == "v_prediction":
        wanted = model.scheduler.get_velocity(latents, noise, times)
    return F.mse_loss(predicted.float(), wanted)


@torch.no_grad()
def held_out_loss(
    model: TrainableDiffusion,
    images: Tensor,
    prompts: Sequence[str],
    seed: int = 0,
    draws: int = 4,
    batch: int = 4,
) -> float:
    """The denoising loss on a fixed set of noises and time steps, in full precision.

    Same images, same seed: same noises and time steps, so that two models, or two states of one,
    differ by what they know and not by luck. The time steps are spread evenly over all noise
    levels. Nothing random is drawn from global state.

    Args:
        images: B x 3 x H x W in [-1, 1]; images that were trained on or that were not.
        prompts: one for each; learned tokens of several vectors need not be written out.
        seed: of the set.
        draws: noises for each image.
        batch: how many are computed together.
    """
    generator = torch.Generator().manual_seed(seed)
    latents = torch.cat([model.encode(image[None]) for image in images]).repeat(draws, 1, 1, 1)
    contexts = torch.cat([model.context([prompt]) for prompt in prompts]).repeat(draws, 1, 1)
    noise = torch.randn(latents.shape, generator=generator).to(latents.device)
    count = len(latents)
    # The middles of equal parts of the noise schedule.
    middles = (torch.arange(count) + 0.5) / count * model.scheduler.config.num_train_timesteps
    times = middles.long()[torch.randperm(count, generator=generator)].to(latents.device)
    total = 0.0
    with model.autocast("fp32"):
        for start in range(0, count, batch):
            part = slice(start, start + batch)
            loss = denoising_loss(model, latents[part], contexts[part], noise[part], times[part])
            total += loss.item() * len(latents[part])
    return total / count


class Objective(ABC):
    """What a method trains, on what, and what it leaves.

    Attributes:
        parameters: what is trained.
        optimizer_type: by what; it takes `lr` and `weight_decay`.
        sources: where latents come from; the first is that of the images to learn from.
        sample_prompts: what the model is asked to draw while it learns.
        needs: of the base model's fingerprints, those that the artifact cannot do without.
    """

    needs: tuple[str, ...]

    def __init__(
        self, model: TrainableDiffusion, source: LatentSource, settings: PersonalizationSettings
    ):
        self.model = model
        self.settings = settings
        self.sources = [source]
        self.parameters: list[nn.Parameter] = []
        self.optimizer_type: type[Optimizer] = AdamW
        self.sample_prompts: tuple[str, ...] = ()
        if settings.gradient_checkpointing:
            model.unet.enable_gradient_checkpointing()

    def prepare(self, folder: Path) -> None:  # noqa: B027, most objectives need nothing
        """Makes in the folder of the run what is needed besides the images."""

    @abstractmethod
    def loss(self, generator: torch.Generator) -> Tensor:
        """The loss of the next batch."""

    @abstractmethod
    def watched_prompt(self) -> str:
        """The prompt under which `watched_loss` is measured."""

    @abstractmethod
    def export(self, folder: Path) -> dict[str, str]:
        """Writes the artifact; returns the fingerprints of what it consists of."""

    def watched_loss(self) -> float:
        """`held_out_loss` of the middles of the first images."""
        crops = self.sources[0].crops
        images = crops.middles(min(WATCHED, len(crops.pictures)))
        prompts = [self.watched_prompt()] * len(images)
        return held_out_loss(self.model, images, prompts, self.settings.seed)
