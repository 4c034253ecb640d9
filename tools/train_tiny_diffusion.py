#!/usr/bin/env python
"""Trains the UNet of the tiny Stable Diffusion of this package on its VAE and the tiny CLIP.

The text encoder is CLIP's and stays as it is, as in Stable Diffusion. The UNet learns to remove
noise from synthetic images of all kinds and styles. Half of the texts are the data sets' captions,
the others are worded in varied ways (`tiny_texts`), and some are empty. In half of the batches the
UNet sees the words alone, without the start and the tokens behind them, in which a causal encoder
gathers the whole sentence: what is to be drawn has to be read from the words. Most of the first
batches are close-ups of objects, of the later ones more are whole images, as Stable Diffusion too
was trained on small images first. Stopped and started again it continues.

It leaves the model in diffusers' format and half precision, with `recipe.json`; and in the work
folder a sheet of samples and the loss curve. On a GPU all of it, drawing included, is to take less
than ten minutes. Nobody needs to run this to use the project; it is here so that the weights can be
made again.

    python tools/train_tiny_vae.py output/tiny_vae
    python tools/train_tiny_clip.py output/tiny_clip
    python tools/train_tiny_diffusion.py output/tiny_vae output/tiny_clip output/tiny_diffusion
"""

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.training_utils import EMAModel, compute_snr
from PIL import Image
from tiny_crops import chance, close_up, random_index, seen, whole
from tiny_images import kept_samples
from tiny_state import load_state, save_state
from tiny_texts import EMPTY, caption, styled, varied
from torch import Tensor
from torch.nn import functional as F
from transformers import CLIPTextModel, CLIPTokenizer

from tadp_d2.conditioning.domains import SLOT
from tadp_d2.diffusion.stable_diffusion import noise_schedule
from tadp_d2.files import new_folder, replacing, sha256
from tadp_d2.progress import hide_library_bars, progress_line
from tadp_d2.synthetic.tiny_tokenizer import save_tokenizer
from tadp_d2.synthetic.training_samples import STYLE_TEMPLATES

# Latent pixels of a whole image; streets are wider and cropped. And of a close-up.
WHOLE, CLOSE_UP = 24, 12
# Share of batches that are close-ups, in the first part of the training and after it.
FIRST_PART, CLOSE_FIRST, CLOSE_THEN = 0.6, 0.85, 0.4
# Share of the texts that are captions of the data sets, and of the batches with words alone.
CAPTIONS, WORDS_ALONE = 0.5, 0.5
# Of those captions, the share that name the style.
STYLED = 0.7
# Noise levels are weighted by min(SNR, 5) / SNR (Hang et al. 2023): composition before texture.
GREATEST_SNR = 5.0
SAVE_EVERY = 100


def make_unet(text_width: int) -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=WHOLE,
        block_out_channels=(32, 64, 64, 64),
        layers_per_block=2,
        cross_attention_dim=text_width,
        # As in Stable Diffusion 1.5, diffusers means the number of heads.
        attention_head_dim=2,
    )


def start_from(unet: UNet2DConditionModel, folder: Path) -> None:
    """Takes over all weights of another such UNet but those that read a text of another width."""
    other = UNet2DConditionModel.from_pretrained(folder, dtype=torch.float32).state_dict()
    own = unet.state_dict()
    unet.load_state_dict({k: other[k] if other[k].shape == v.shape else v for k, v in own.items()})


@torch.no_grad()
def prepare(args: argparse.Namespace) -> list[dict]:
    """All samples, with "latents" in the place of their images; kept because it takes minutes.

    Those are scaled latents of the image and of its mirror image: 2 x 4 x h x w, float16.
    """
    path = args.work / f"latents_{args.seed}_{args.images}.pt"
    if not path.exists():
        samples = kept_samples(args.work, args.images, args.seed)
        vae = AutoencoderKL.from_pretrained(args.vae, dtype=torch.float32).eval().to(args.device)
        show = progress_line("images encoded")
        for index, sample in enumerate(samples):
            image = sample.pop("image").to(args.device).float() / 127.5 - 1
            latents = vae.encode(torch.stack([image, image.flip(-1)])).latent_dist.mode()
            sample["latents"] = (latents * vae.config.scaling_factor).half().cpu()
            show(index + 1, len(samples))
        with replacing(path) as temporary:
            torch.save(samples, temporary)
    return torch.load(path, weights_only=True)


def draw_batch(images: list[dict], size: int, close: bool) -> tuple[Tensor, list[str]]:
    """Latent crops and their prompts.

    Args:
        images: as `prepare` returns them; only such with boxes for close-ups.
        size: number of whole images; of close-ups, which are a quarter, four times as many.
        close: whether to take close-ups.
    """
    crops, prompts = [], []
    for _ in range(4 * size if close else size):
        image = images[random_index(len(images))]
        mirrored = chance(0.5)
        latents = image["latents"][int(mirrored)].float()
        things = seen(image["things"], mirrored)
        is_whole = not close and latents.shape[1] == latents.shape[2]
        crop, shown = close_up(latents, things, CLOSE_UP) if close else whole(latents, things)
        crops.append(crop)
        if not chance(CAPTIONS):
            prompts.append(styled(varied(image, shown, mirrored, is_whole), image["style"]))
        elif chance(EMPTY):
            prompts.append("")
        else:
            text = caption(image, shown if close else None)
            styled_text = STYLE_TEMPLATES[image["style"]].replace(SLOT, text)
            prompts.append(styled_text if chance(STYLED) else text)
    return torch.stack(crops), prompts


class Learner:
    """The UNet with optimizer, schedule and averaged weights, on a frozen text encoder."""

    def __init__(self, clip: Path, unet: UNet2DConditionModel, args: argparse.Namespace):
        self.device = args.device
        self.tokenizer = CLIPTokenizer.from_pretrained(clip)
        self.text_encoder = CLIPTextModel.from_pretrained(clip, dtype=torch.float32)
        self.text_encoder.requires_grad_(False).eval().to(args.device)
        self.unet = unet.train().to(args.device)
        self.average = EMAModel(self.unet.parameters(), decay=0.995)
        self.optimizer = torch.optim.AdamW(self.unet.parameters(), lr=args.rate, weight_decay=0.01)
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(
            self.optimizer, args.rate, total_steps=args.steps, pct_start=0.05
        )
        self.noise = noise_schedule()
        self.step, self.losses = 0, []

    def read(self, prompts: list[str], words_alone: bool) -> dict[str, Tensor]:
        """What the UNet reads of prompts: B x 77 x D, and which of the tokens it sees."""
        tokens = self.tokenizer(
            prompts, padding="max_length", truncation=True, return_tensors="pt"
        ).input_ids
        with torch.no_grad():
            context = self.text_encoder(tokens.to(self.device)).last_hidden_state
        read = {"encoder_hidden_states": context}
        if words_alone:
            special = torch.tensor([self.tokenizer.bos_token_id, self.tokenizer.eos_token_id])
            seen_tokens = ~torch.isin(tokens, special)
            # An empty text has no word: there is its start to look at.
            seen_tokens[:, 0] = ~seen_tokens.any(1)
            read["encoder_attention_mask"] = seen_tokens.to(self.device)
        return read

    def errors(self, latents: Tensor, read: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Squared error of each image's predicted noise, and its weight in training."""
        # Drawn on the CPU, so that each device draws the same.
        noise = torch.randn(latents.shape).to(self.device)
        times = torch.randint(self.noise.config.num_train_timesteps, (len(latents),))
        weights = (GREATEST_SNR / compute_snr(self.noise, times)).clamp(max=1).to(self.device)
        times = times.to(self.device)
        noisy = self.noise.add_noise(latents.to(self.device), noise, times)
        found = self.unet(noisy, times, **read).sample
        return F.mse_loss(found, noise, reduction="none").mean((1, 2, 3)), weights

    def update(self, latents: Tensor, prompts: list[str]) -> None:
        errors, weights = self.errors(latents, self.read(prompts, chance(WORDS_ALONE)))
        self.optimizer.zero_grad()
        (errors * weights).mean().backward()
        torch.nn.utils.clip_grad_norm_(self.unet.parameters(), 1.0)
        self.optimizer.step()
        self.schedule.step()
        self.average.step(self.unet.parameters())
        self.losses.append(errors.mean().item())
        self.step += 1

    def parts(self) -> dict[str, Any]:
        """What a stopped training goes on with, by names."""
        names = ("unet", "average", "optimizer", "schedule")
        return {name: getattr(self, name) for name in names}

    def save(self, path: Path) -> None:
        save_state(path, self.parts(), self.losses)

    def load(self, path: Path) -> None:
        self.losses = load_state(path, self.parts(), self.device)
        self.step = len(self.losses)

    def pipeline(self, vae_folder: Path) -> StableDiffusionPipeline:
        """The model with averaged weights."""
        self.average.copy_to(self.unet.parameters())
        pipeline = StableDiffusionPipeline(
            vae=AutoencoderKL.from_pretrained(vae_folder, dtype=torch.float32).to(self.device),
            text_encoder=self.text_encoder,
            tokenizer=self.tokenizer,
            unet=self.unet.eval(),
            scheduler=noise_schedule(),
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
    parser.add_argument("clip", type=Path, help="folder that train_tiny_clip.py wrote")
    parser.add_argument("output", type=Path, help="new or empty folder")
    parser.add_argument(
        "--unet",
        type=Path,
        help="folder of a UNet of the same size to begin with (default: random weights)",
    )
    parser.add_argument("--images", type=int, default=6000)
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--seed", type=int, default=5)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--work", type=Path, default=Path("output/tiny_models"))
    args = parser.parse_args()
    hide_library_bars()
    torch.manual_seed(args.seed)
    data = prepare(args)
    boxed = [image for image in data if image["things"]]
    unet = make_unet(
        json.loads((args.clip / "config.json").read_text())["text_config"]["hidden_size"]
    )
    if args.unet:
        start_from(unet, args.unet)
    learner = Learner(args.clip, unet, args)
    state = args.work / "diffusion.pt"
    if state.exists():
        learner.load(state)
    show = progress_line("steps")
    while learner.step < args.steps:
        first = learner.step < FIRST_PART * args.steps
        close = chance(CLOSE_FIRST if first else CLOSE_THEN)
        learner.update(*draw_batch(boxed if close else data, args.batch, close))
        if learner.step % SAVE_EVERY == 0:
            learner.save(state)
            recent = np.mean(learner.losses[-SAVE_EVERY:])
            print(f"step {learner.step}: loss {recent:.4f}", flush=True)
        show(learner.step, args.steps)
    pipeline = learner.pipeline(args.vae)
    sample_sheet(pipeline, args.seed).save(args.work / "samples.png")
    draw_losses(learner.losses, args.work / "losses.png")
    with new_folder(args.output) as folder:
        pipeline.to("cpu", torch.float16).save_pretrained(folder)
        shutil.rmtree(folder / "tokenizer")
        save_tokenizer(learner.tokenizer, folder / "tokenizer")
        recipe = {key: value for key, value in vars(args).items() if not isinstance(value, Path)}
        recipe["sha256"] = {
            part: sha256(folder / file)
            for part, file in (
                ("unet", "unet/diffusion_pytorch_model.safetensors"),
                ("vae", "vae/diffusion_pytorch_model.safetensors"),
                ("text_encoder", "text_encoder/model.safetensors"),
            )
        }
        (folder / "recipe.json").write_text(json.dumps(recipe, indent=2) + "\n", "utf-8")


if __name__ == "__main__":
    main()
