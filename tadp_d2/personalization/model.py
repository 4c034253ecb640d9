"""The parts of a Stable Diffusion model, loaded to be taught."""

import contextlib
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DDPMScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer

from tadp_d2.diffusion.clip_text import TextEncoder
from tadp_d2.diffusion.clip_tokenizer import tokenizer_fingerprint
from tadp_d2.diffusion.families import find_model
from tadp_d2.diffusion.latent_noise import load_scheduler
from tadp_d2.diffusion.stable_diffusion import check_unet_goes_with, load_unet, load_vae
from tadp_d2.diffusion.tokens import expand_tokens
from tadp_d2.diffusion.unet_features import unet_fingerprint
from tadp_d2.errors import UserError
from tadp_d2.frozen import fingerprint
from tadp_d2.precision import autocast

# That of MODEL.DIFFUSION.WEIGHTS, which lives where Detectron2 does.
DEFAULT_WEIGHTS = "stable-diffusion-v1-5/stable-diffusion-v1-5"
_PREDICTIONS = ("epsilon", "v_prediction")
# Options of a noise schedule that a training depends on; others are of sampling.
_SCHEDULE = (
    *("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas"),
    *("rescale_betas_zero_snr", "prediction_type"),
)


@dataclass
class TrainableDiffusion:
    """Tokenizer, text encoder, VAE, UNet and noise schedule; all in eval mode, none trainable.

    Eval mode is for good: Stable Diffusion has no layers that behave differently in training.
    """

    tokenizer: CLIPTokenizer
    text_encoder: CLIPTextModel
    vae: AutoencoderKL
    unet: UNet2DConditionModel
    scheduler: DDPMScheduler

    def __post_init__(self):
        for part in (self.text_encoder, self.vae, self.unet):
            part.eval().requires_grad_(False)

    @classmethod
    def load(cls, weights: str = DEFAULT_WEIGHTS, revision: str = "") -> "TrainableDiffusion":
        """
        Args:
            weights: a folder in diffusers' format, or a hub id.
            revision: branch, tag or commit of the hub's model; empty for its main branch.

        Raises:
            UserError: there is no such model, a part is missing or damaged, or its UNet predicts
                something else than noise or velocity.
        """
        _, folder = find_model(weights, revision, teachable=True)
        scheduler = load_scheduler(folder / "scheduler")
        if scheduler.config.prediction_type not in _PREDICTIONS:
            raise UserError(
                f"{folder / 'scheduler'}: prediction_type {scheduler.config.prediction_type!r} is "
                f"not supported; expected {' or '.join(_PREDICTIONS)}"
            )
        text = TextEncoder.from_pretrained(folder)
        text_encoder, vae, unet = (
            text.text_encoder.module,
            load_vae(folder),
            load_unet(folder / "unet"),
        )
        check_unet_goes_with(
            unet.config, vae.config.latent_channels, text_encoder.config.hidden_size, str(folder)
        )
        return cls(text.tokenizer, text_encoder, vae, unet, scheduler)

    @property
    def device(self) -> torch.device:
        return self.unet.device

    @property
    def divisor(self) -> int:
        """What an image's side must divide by: the stride of the UNet's deepest level."""
        return self.stride * 2 ** (len(self.unet.config.block_out_channels) - 1)

    @property
    def stride(self) -> int:
        """Pixels per latent pixel."""
        return 2 ** (len(self.vae.config.block_out_channels) - 1)

    def to(self, device: torch.device) -> "TrainableDiffusion":
        for part in (self.text_encoder, self.vae, self.unet):
            part.to(device)
        return self

    def autocast(self, precision: str) -> contextlib.AbstractContextManager:
        """Inside it one computes in a precision; "fp32" switches an outer one off."""
        return autocast(self.device.type, precision)

    def fingerprints(self) -> dict[str, str]:
        """Those of the base model's parts, as checkpoints of `train_net.py` record them.

        Besides, of the noise schedule, of which no checkpoint knows.
        """
        encoder = {
            name: child
            for name, child in self.vae.named_children()
            if name not in ("decoder", "post_quant_conv")
        }
        return {
            "text_encoder": fingerprint(self.text_encoder),
            "tokenizer": tokenizer_fingerprint(self.tokenizer),
            "unet": unet_fingerprint(self.unet),
            "vae": fingerprint(nn.ModuleDict({"vae": nn.ModuleDict(encoder)})),
            "scheduler": _schedule_fingerprint(self.scheduler),
        }

    def context(self, prompts: Sequence[str]) -> Tensor:
        """The text encoder's last hidden states, B x N x D, of prompts with learned tokens.

        Raises:
            UserError: a prompt is longer than the text encoder reads.
        """
        length = self.text_encoder.config.max_position_embeddings
        texts = [expand_tokens(prompt, self.tokenizer) for prompt in prompts]
        ids = self.tokenizer(texts, padding="max_length", max_length=length, verbose=False)
        for prompt, tokens in zip(prompts, ids.input_ids, strict=True):
            if len(tokens) > length:
                raise UserError(
                    f"{prompt!r} has {len(tokens)} tokens, the text encoder reads {length}: "
                    "shorten the prompt, or use fewer --vectors"
                )
        device = self.text_encoder.device
        return self.text_encoder(torch.tensor(ids.input_ids, device=device)).last_hidden_state

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """Scaled latents, B x 4 x h x w: the mean of the VAE's posterior, as in our backbone.

        A sample would only add the VAE's uncertainty, which is small in Stable Diffusion.

        Args:
            images: B x 3 x H x W in [-1, 1].
        """
        # In fp32 whatever the UNet computes in: the VAE of Stable Diffusion 1.5 overflows in fp16.
        with self.autocast("fp32"):
            latents = self.vae.encode(images.to(self.device)).latent_dist.mode()
        return latents * self.vae.config.scaling_factor

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Images, B x 3 x H x W in about [-1, 1], of scaled latents."""
        with self.autocast("fp32"):
            return self.vae.decode(latents.float() / self.vae.config.scaling_factor).sample

    def pipeline(self) -> StableDiffusionPipeline:
        """Diffusers' pipeline of these very parts, with a sampler that draws no noise."""
        pipeline = StableDiffusionPipeline(
            vae=self.vae,
            text_encoder=self.text_encoder,
            tokenizer=self.tokenizer,
            unet=self.unet,
            scheduler=DDIMScheduler.from_config(self.scheduler.config, clip_sample=False),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
        pipeline.set_progress_bar_config(disable=True)
        return pipeline


def _schedule_fingerprint(scheduler: DDPMScheduler) -> str:
    """SHA-256 of the options that noise and target depend on."""
    options = {option: scheduler.config[option] for option in _SCHEDULE}
    return hashlib.sha256(json.dumps(options, default=list).encode()).hexdigest()
