"""DreamBooth: the UNet is fine-tuned until a rare word means what the images show."""

import shutil
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from tadp_d2.adam_8bit import adam_8bit
from tadp_d2.diffusion.unet_features import unet_fingerprint
from tadp_d2.errors import UserError
from tadp_d2.files import new_folder, replacing
from tadp_d2.frozen import fingerprint
from tadp_d2.personalization.latents import LatentSource
from tadp_d2.personalization.model import TrainableDiffusion
from tadp_d2.personalization.objective import Objective, denoising_loss, draw_noise
from tadp_d2.personalization.samples import draw_sample
from tadp_d2.personalization.settings import DreamBoothSettings
from tadp_d2.personalization.training_images import Crops, read_pictures
from tadp_d2.progress import progress_line

# The cross-attention and self-attention layers that low-rank updates are added to.
_LORA_LAYERS = ["to_q", "to_k", "to_v", "to_out.0"]
# Of the sampler.
_PRIOR_STEPS = 50


class DreamBooth(Objective):
    """The denoising loss under one prompt, plus that of the prior's images under theirs."""

    needs = ("text_encoder", "tokenizer", "vae")

    def __init__(
        self, model: TrainableDiffusion, source: LatentSource, settings: DreamBoothSettings
    ):
        """
        Raises:
            UserError: an optional package is missing, or a prompt is too long.
        """
        super().__init__(model, source, settings)
        if settings.adam_8bit:
            self.optimizer_type = adam_8bit(model.device, "--adam-8bit")
        self.sample_prompts = (settings.prompt,) * 4
        self._contexts: dict[str, Tensor] = {}
        with torch.no_grad():
            model.context([settings.prompt, settings.prior_prompt])
        if settings.lora:
            self._lora = _add_lora(model, settings)
        else:
            model.unet.requires_grad_(True)
        self.parameters = [p for p in model.unet.parameters() if p.requires_grad]
        if settings.train_text_encoder:
            model.text_encoder.requires_grad_(True)
            self.parameters += model.text_encoder.parameters()

    def prepare(self, folder: Path) -> None:
        """Draws the prior's images, if there is to be a prior, into `prior/`."""
        if self.settings.prior_images:
            show = progress_line("prior images")
            make_prior_pictures(self.model, self.settings, folder / "prior", show)
            self.sources.append(prior_source(self.model, self.settings, folder / "prior"))

    def loss(self, generator: torch.Generator) -> Tensor:
        prompts = (self.settings.prompt, self.settings.prior_prompt)
        weights = (1.0, self.settings.prior_weight)
        # Without prior preservation there is one source only.
        losses = [
            weight * self._loss(source, prompt, generator)
            for source, prompt, weight in zip(self.sources, prompts, weights, strict=False)
        ]
        return torch.stack(losses).sum()

    def _loss(self, source: LatentSource, prompt: str, generator: torch.Generator) -> Tensor:
        latents = source.draw(self.settings.batch, generator)
        noise, times = draw_noise(latents, self.model.scheduler, generator)
        context = self._context(prompt).expand(len(latents), -1, -1)
        return denoising_loss(self.model, latents, context, noise, times)

    def _context(self, prompt: str) -> Tensor:
        """A frozen text encoder is asked once."""
        if self.settings.train_text_encoder:
            return self.model.context([prompt])
        if prompt not in self._contexts:
            with torch.no_grad(), self.model.autocast("fp32"):
                self._contexts[prompt] = self.model.context([prompt])
        return self._contexts[prompt]

    def watched_prompt(self) -> str:
        return self.settings.prompt

    def export(self, folder: Path) -> dict[str, str]:
        """Writes `unet/`; with a trained text encoder, a whole diffusion model."""
        if self.settings.lora:
            self.model.unet = self._lora.merge_and_unload()
        shutil.rmtree(folder / "export", ignore_errors=True)
        with new_folder(folder / "export") as temporary:
            if self.settings.train_text_encoder:
                self.model.pipeline().save_pretrained(temporary)
            else:
                self.model.unet.save_pretrained(temporary / "unet")
        _move_into(folder / "export", folder)
        result = {"unet": unet_fingerprint(self.model.unet)}
        if self.settings.train_text_encoder:
            result["text_encoder"] = fingerprint(self.model.text_encoder)
        return result


def _move_into(source: Path, folder: Path) -> None:
    """Moves what an export wrote to its place; what a killed one left there gives way."""
    for path in sorted(source.iterdir()):
        target = folder / path.name
        if target.is_dir():
            shutil.rmtree(target)
        path.rename(target)
    source.rmdir()


def make_prior_pictures(
    model: TrainableDiffusion,
    settings: DreamBoothSettings,
    folder: Path,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Draws the class's images with the untouched model into `folder`; those there are stay.

    Every image has a seed of its own, so that it does not matter which were there.
    """
    for number in range(settings.prior_images):
        path = folder / f"{number:05}.png"
        if not path.exists():
            image = draw_sample(
                model,
                settings.prior_prompt,
                settings.size,
                _PRIOR_STEPS,
                settings.precision,
                settings.seed + number,
            )
            with replacing(path) as temporary:
                image.save(temporary, format="PNG")
        if progress:
            progress(number + 1, settings.prior_images)


def prior_source(
    model: TrainableDiffusion, settings: DreamBoothSettings, folder: Path
) -> LatentSource:
    """The latents of the images that `make_prior_pictures` left in `folder`."""
    paths = [folder / f"{number:05}.png" for number in range(settings.prior_images)]
    images, _ = read_pictures(paths, settings.size)
    return LatentSource(model, Crops(images, settings.size, settings.flip, center=True))


def _add_lora(model: TrainableDiffusion, settings: DreamBoothSettings) -> nn.Module:
    """Puts low-rank updates beside the UNet's attention layers, in place; they start at zero."""
    try:
        import peft
    except ImportError:
        raise UserError("--lora needs a package that is not installed: pip install peft") from None
    config = peft.LoraConfig(r=settings.lora, lora_alpha=settings.lora, target_modules=_LORA_LAYERS)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        return peft.get_peft_model(model.unet, config)
