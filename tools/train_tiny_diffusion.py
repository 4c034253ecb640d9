#!/usr/bin/env python
"""Trains text encoder and UNet of the tiny Stable Diffusion of this package, on its VAE.

They learn together to remove noise from synthetic images in all styles, under captions of
which most name the style, some do not, and some are empty. Most of the first batches are close-ups
of objects, of the later ones more are whole images, as Stable Diffusion too was trained on small
images first. Stopped and started again it continues.
It leaves the model in diffusers' format and half precision, a sheet of samples and the loss curve.
Nobody needs to run this to use the project; it is here so that the weights can be made again.

    python tools/train_tiny_vae.py output/tiny_vae
    python tools/train_tiny_diffusion.py output/tiny_vae tadp_d2/synthetic/stable_diffusion
"""

import argparse
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.training_utils import EMAModel, compute_snr
from PIL import Image
from tiny_crops import close_up, random_index, whole
from tiny_images import make_samples, to_input
from torch.nn import functional as F
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from tadp_d2.conditioning.domains import DOMAINS, SLOT
from tadp_d2.files import new_folder, replacing
from tadp_d2.progress import hide_library_bars, progress_line
from tadp_d2.synthetic.tiny_tokenizer import CONTEXT_LENGTH, make_tokenizer, save_tokenizer
from tadp_d2.synthetic.training_samples import STYLE_TEMPLATES, Sample

TEXT_WIDTH = 64
# Styles take turns, those of scenes twice as often: they have more to say.
STYLES = 2 * ("photo", "watercolor", "comic") + ("day", "night", "foggy")
# Latent pixels of a whole image; streets are wider and cropped. And of a close-up.
WHOLE, CLOSE_UP = 24, 12
# Share of batches that are close-ups, in the first part of the training and after it.
FIRST_PART, CLOSE_FIRST, CLOSE_THEN = 0.6, 0.85, 0.4
STYLED, EMPTY = 0.6, 0.1
# Noise levels are weighted by min(SNR, 5) / SNR (Hang et al. 2023): composition before texture.
GREATEST_SNR = 5.0
SAVE_EVERY = 100


def make_text_encoder(vocabulary_size: int) -> CLIPTextModel:
    config = CLIPTextConfig(
        vocab_size=vocabulary_size,
        hidden_size=TEXT_WIDTH,
        intermediate_size=4 * TEXT_WIDTH,
        num_hidden_layers=3,
        num_attention_heads=4,
        max_position_embeddings=CONTEXT_LENGTH,
        bos_token_id=vocabulary_size - 2,
        eos_token_id=vocabulary_size - 1,
        pad_token_id=vocabulary_size - 1,
    )
    return CLIPTextModel(config)


def make_unet() -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=WHOLE,
        block_out_channels=(32, 64, 64, 64),
        layers_per_block=2,
        cross_attention_dim=TEXT_WIDTH,
        # As in Stable Diffusion 1.5, diffusers means the number of heads.
        attention_head_dim=2,
    )


def make_scheduler() -> DDIMScheduler:
    """Stable Diffusion 1.5's noise schedule."""
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )


@torch.no_grad()
def encode(vae: AutoencoderKL, samples: list[Sample]) -> list[torch.Tensor]:
    """Scaled latents of each image and of its mirror image: 2 x 4 x h x w, float16."""
    latents, show = [], progress_line("images encoded")
    for index, sample in enumerate(samples):
        image = to_input(sample.image)
        both = torch.stack([image, image.flip(-1)])
        latents.append((vae.encode(both).latent_dist.mode() * vae.config.scaling_factor).half())
        show(index + 1, len(samples))
    return latents


def prepare(path: Path, vae_folder: Path, count: int, seed: int) -> list[dict]:
    """Each image's style, words and latents; kept in a file because it takes minutes."""
    if not path.exists():
        samples = make_samples(count, seed, STYLES)
        vae = AutoencoderKL.from_pretrained(vae_folder, dtype=torch.float32).eval()
        images = [
            {
                "style": sample.style,
                "caption": sample.caption,
                "setting": sample.setting,
                "things": [tuple(thing) for thing in sample.things],
                "latents": latents,
            }
            for sample, latents in zip(samples, encode(vae, samples), strict=True)
        ]
        with replacing(path) as temporary:
            torch.save(images, temporary)
    return torch.load(path, weights_only=True)


def sentences(captions: list[str]) -> set[str]:
    """What the tokenizer learns from: captions and all modifiers' words, without learned tokens."""
    templates = [
        modifier.template for domain in DOMAINS.values() for modifier in domain.modifiers.values()
    ]
    templates += STYLE_TEMPLATES.values()
    return {*captions, *(template for template in templates if "<" not in template)}


def draw_batch(images: list[dict], size: int, close: bool) -> tuple[torch.Tensor, list[str]]:
    """Latent crops and their prompts.

    Args:
        images: as `prepare` returns them; of scenes only for close-ups.
        size: number of whole images; of close-ups, which are a quarter, four times as many.
        close: whether to take close-ups.
    """
    crops, prompts = [], []
    for _ in range(4 * size if close else size):
        image = images[random_index(len(images))]
        mirrored = random_index(2)
        latents = image["latents"][mirrored].float()
        if close:
            words = image["setting"], image["things"]
            crop, caption = close_up(latents, *words, bool(mirrored), CLOSE_UP)
        else:
            crop, caption = whole(latents), image["caption"]
        crops.append(crop)
        chance = float(torch.rand(()))
        if chance < STYLED:
            caption = STYLE_TEMPLATES[image["style"]].replace(SLOT, caption)
        prompts.append("" if chance > 1 - EMPTY else caption)
    return torch.stack(crops), prompts


class Learner:
    """Text encoder and UNet with optimizer, schedule and averaged weights."""

    def __init__(self, tokenizer: CLIPTokenizer, steps: int, rate: float):
        self.tokenizer = tokenizer
        self.text_encoder = make_text_encoder(len(tokenizer)).train()
        self.unet = make_unet().train()
        self.parameters = [*self.text_encoder.parameters(), *self.unet.parameters()]
        self.average = EMAModel(self.parameters, decay=0.995)
        self.optimizer = torch.optim.AdamW(self.parameters, lr=rate, weight_decay=0.01)
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(
            self.optimizer, rate, total_steps=steps, pct_start=0.05
        )
        self.noise = make_scheduler()
        self.step, self.losses = 0, []

    def errors(
        self, latents: torch.Tensor, prompts: list[str]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Squared error of each image's predicted noise, and its weight in training."""
        tokens = self.tokenizer(
            prompts, padding="max_length", truncation=True, return_tensors="pt"
        ).input_ids
        context = self.text_encoder(tokens).last_hidden_state
        noise = torch.randn_like(latents)
        times = torch.randint(self.noise.config.num_train_timesteps, (len(latents),))
        noisy = self.noise.add_noise(latents, noise, times)
        errors = F.mse_loss(self.unet(noisy, times, context).sample, noise, reduction="none")
        return errors.mean((1, 2, 3)), (GREATEST_SNR / compute_snr(self.noise, times)).clamp(max=1)

    def update(self, latents: torch.Tensor, prompts: list[str]) -> None:
        errors, weights = self.errors(latents, prompts)
        self.optimizer.zero_grad()
        (errors * weights).mean().backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        self.schedule.step()
        self.average.step(self.parameters)
        self.losses.append(errors.mean().item())
        self.step += 1

    def save(self, path: Path) -> None:
        state = {
            "text_encoder": self.text_encoder.state_dict(),
            "unet": self.unet.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "random": torch.get_rng_state(),
            "losses": self.losses,
        }
        with replacing(path) as temporary:
            torch.save(state, temporary)

    def load(self, path: Path) -> None:
        state = torch.load(path, weights_only=True)
        for part in ("text_encoder", "unet", "average", "optimizer", "schedule"):
            getattr(self, part).load_state_dict(state[part])
        torch.set_rng_state(state["random"])
        self.losses = state["losses"]
        self.step = len(self.losses)

    def pipeline(self, vae_folder: Path) -> StableDiffusionPipeline:
        """The model with averaged weights."""
        self.average.copy_to(self.parameters)
        pipeline = StableDiffusionPipeline(
            vae=AutoencoderKL.from_pretrained(vae_folder, dtype=torch.float32),
            text_encoder=self.text_encoder.eval(),
            tokenizer=self.tokenizer,
            unet=self.unet.eval(),
            scheduler=make_scheduler(),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
        pipeline.set_progress_bar_config(disable=True)
        return pipeline


def sample_sheet(pipeline: StableDiffusionPipeline, seed: int) -> Image.Image:
    """A row of four images for each style."""
    captions = (
        "a dog in a park",
        "two cars on a street",
        "a bird and a cat on a beach",
        "a person",
    )
    street = "a car and two people on a street with buildings and trees"
    rows = []
    for style, template in STYLE_TEMPLATES.items():
        texts = [street] * 4 if style in ("day", "foggy", "night") else captions
        images = pipeline(
            [template.replace(SLOT, text) for text in texts],
            num_inference_steps=30,
            guidance_scale=4.0,
            height=8 * WHOLE,
            width=8 * WHOLE,
            generator=torch.Generator().manual_seed(seed),
        ).images
        rows.append(np.concatenate([np.asarray(image) for image in images], axis=1))
    return Image.fromarray(np.concatenate(rows))


def draw_losses(losses: list[float], file: Path) -> None:
    """The loss by step, and its mean over the last 100."""
    figure, axes = plt.subplots(figsize=(6, 3), layout="constrained")
    axes.plot(losses, linewidth=0.3, color="0.7")
    means = np.convolve(losses, np.ones(100) / 100, mode="valid")
    axes.plot(np.arange(len(means)) + 99, means, color="C0")
    axes.set(xlabel="step", ylabel="squared error of the noise", ylim=(0, 0.6))
    figure.savefig(file, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("vae", type=Path, help="folder that train_tiny_vae.py wrote")
    parser.add_argument("output", type=Path, help="new or empty folder")
    parser.add_argument("--images", type=int, default=6300)
    parser.add_argument("--steps", type=int, default=2200)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--seed", type=int, default=5)
    parser.add_argument("--work", type=Path, default=Path("output/tiny_diffusion"))
    args = parser.parse_args()
    hide_library_bars()
    torch.manual_seed(args.seed)
    data = prepare(args.work / "latents.pt", args.vae, args.images, args.seed)
    scenes = [image for image in data if image["things"]]
    tokenizer = make_tokenizer(sentences([image["caption"] for image in data]))
    learner = Learner(tokenizer, args.steps, args.rate)
    state = args.work / "state.pt"
    if state.exists():
        learner.load(state)
    show = progress_line("steps")
    while learner.step < args.steps:
        first = learner.step < FIRST_PART * args.steps
        close = float(torch.rand(())) < (CLOSE_FIRST if first else CLOSE_THEN)
        learner.update(*draw_batch(scenes if close else data, args.batch, close))
        if learner.step % SAVE_EVERY == 0:
            learner.save(state)
            recent = np.mean(learner.losses[-SAVE_EVERY:])
            print(f"step {learner.step}: loss {recent:.4f}", flush=True)
        show(learner.step, args.steps)
    pipeline = learner.pipeline(args.vae)
    sample_sheet(pipeline, args.seed).save(args.work / "samples.png")
    draw_losses(learner.losses, args.work / "losses.png")
    with new_folder(args.output) as folder:
        pipeline.to(torch.float16).save_pretrained(folder)
        save_tokenizer(learner.tokenizer, folder / "tokenizer")


if __name__ == "__main__":
    main()
