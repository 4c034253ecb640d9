#!/usr/bin/env python
"""Trains the UNet of the tiny Stable Diffusion of this package on its VAE and the tiny CLIP.

The text encoder is CLIP's and stays as it is, as in Stable Diffusion. The UNet learns to remove
noise from synthetic images of all kinds and styles. Half of the texts are the data sets' captions,
the others are worded in varied ways (`tiny_texts`), and some are empty. In half of the batches the
UNet sees the words alone, without the start and the tokens behind them, in which a causal encoder
gathers the whole sentence: what is to be drawn has to be read from the words. Most of the first
batches are close-ups of objects, of the later ones more are whole images, as Stable Diffusion too
was trained on small images first. Stable Diffusion's words point at what they name without being
told to. A model that is this small, and trained for minutes, is told: a second loss asks that the
pixels in the boxes of a class attend to its word four times as much as the others do, at strides 8,
16 and 32. Stopped and started again it continues.

It leaves the model in diffusers' format and half precision, with `recipe.json`; and in the work
folder a sheet of samples and the loss curve. On a GPU all of it, drawing included, is to take less
than ten minutes. Nobody needs to run this to use the project; it is here so that the weights can be
made again.

    python tools/train_tiny_vae.py output/tiny_vae
    python tools/train_tiny_clip.py output/tiny_clip
    python tools/train_tiny_diffusion.py output/tiny_vae output/tiny_clip output/tiny_diffusion
"""

import argparse
import functools
import itertools
import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import tiny_training
import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.training_utils import EMAModel, compute_snr
from PIL import Image
from tiny_crops import chance, close_up, random_index, seen, whole
from tiny_images import kept_samples
from tiny_texts import EMPTY, caption, styled, varied
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPTextModel, CLIPTokenizer

from tadp_d2.conditioning.domains import SLOT
from tadp_d2.diffusion.attention import AttentionMaps, FusedAttention, RecordedAttention
from tadp_d2.diffusion.stable_diffusion import noise_schedule
from tadp_d2.errors import exit_on_user_error
from tadp_d2.files import new_folder, replacing, sha256
from tadp_d2.progress import hide_library_bars, progress_line
from tadp_d2.synthetic.sentences import plural
from tadp_d2.synthetic.training_samples import STYLE_TEMPLATES, BoxedThing

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
# Of each time step.
SNR = compute_snr(noise_schedule(), torch.arange(noise_schedule().config.num_train_timesteps))
# Latent pixels to a pixel of the maps that are taught to point -> the UNet's blocks that have them.
POINTING_BLOCKS = {
    1: ("down_blocks.0.", "up_blocks.3."),
    2: ("down_blocks.1.", "up_blocks.2."),
    4: ("down_blocks.2.", "up_blocks.1."),
}
# Attention in the boxes, as a share of it and as much without: four times as much. The weight of
# the loss, which is greatest without noise; and for how many words of a text.
WITHIN, POINTING, POINTED = 0.8, 0.05, 3
AVERAGING = 0.999
TOKENIZER_FILES = ("merges.txt", "tokenizer_config.json", "vocab.json")
# Images that the VAE encodes together.
ENCODED = 64
SAVE_EVERY = 500


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
    of_vae = sha256(args.vae / "diffusion_pytorch_model.safetensors")[:12]
    path = args.work / f"latents_{args.seed}_{args.images}_{of_vae}.pt"
    if not path.exists():
        samples = kept_samples(args.work, args.images, args.seed)
        vae = AutoencoderKL.from_pretrained(args.vae, dtype=torch.float32).eval().to(args.device)
        show = progress_line("images encoded")
        # Those of one size together.
        samples.sort(key=lambda sample: sample["image"].shape)
        for start in range(0, len(samples), ENCODED):
            part = samples[start : start + ENCODED]
            for _, group in itertools.groupby(part, lambda sample: sample["image"].shape):
                encode(vae, list(group), args.device)
            show(start + len(part), len(samples))
        with replacing(path) as temporary:
            torch.save(samples, temporary)
    return torch.load(path, weights_only=True)


def encode(vae: AutoencoderKL, samples: list[dict], device: str) -> None:
    """Puts latents in the place of images, all of one size."""
    images = torch.stack([sample.pop("image") for sample in samples]).to(device) / 127.5 - 1
    both = torch.cat([images, images.flip(-1)])
    latents = vae.encode(both).latent_dist.mode() * vae.config.scaling_factor
    for sample, own in zip(
        samples,
        latents.half().cpu().view(2, len(samples), *latents.shape[1:]).transpose(0, 1),
        strict=True,
    ):
        sample["latents"] = own.clone()


class Batch(NamedTuple):
    """
    Attributes:
        latents, noise: B x 4 x h x w.
        times: B, time steps.
        tokens: B x 77.
        seen: B x 77, the tokens that the UNet sees.
        words: B x 3, which of the tokens name a class that is boxed; -1 for none.
        boxes: B x 3 x h x w, the share of each latent pixel that is in its boxes.
    """

    latents: Tensor
    noise: Tensor
    times: Tensor
    tokens: Tensor
    seen: Tensor
    words: Tensor
    boxes: Tensor


def draw_batch(images: list[dict], tokenizer: CLIPTokenizer, size: int, close: bool) -> Batch:
    """
    Args:
        images: as `prepare` returns them; only such with boxes for close-ups.
        size: number of whole images; of close-ups, which are a quarter, four times as many.
        close: whether to take close-ups.
    """
    crops, prompts, things = [], [], []
    for _ in range(4 * size if close else size):
        image = images[random_index(len(images))]
        mirrored = chance(0.5)
        latents = image["latents"][int(mirrored)].float()
        own = seen(image["things"], mirrored)
        is_whole = not close and latents.shape[1] == latents.shape[2]
        crop, shown = close_up(latents, own, CLOSE_UP) if close else whole(latents, own)
        crops.append(crop)
        things.append(shown)
        prompts.append(draw_prompt(image, shown, mirrored, close, is_whole))
    latents = torch.stack(crops)
    tokens = tokenizer(
        prompts, padding="max_length", truncation=True, return_tensors="pt"
    ).input_ids
    pointed = [
        point(tokenizer, *pair, latents.shape[-1])
        for pair in zip(tokens.tolist(), things, strict=True)
    ]
    return Batch(
        latents,
        torch.randn(latents.shape),
        torch.randint(len(SNR), (len(latents),)),
        tokens,
        words_of(tokenizer, tokens) if chance(WORDS_ALONE) else torch.ones_like(tokens).bool(),
        torch.tensor([words for words, _ in pointed]),
        torch.stack([boxes for _, boxes in pointed]),
    )


def draw_prompt(
    image: dict, shown: list[BoxedThing], mirrored: bool, close: bool, is_whole: bool
) -> str:
    if not chance(CAPTIONS):
        return styled(varied(image, shown, mirrored, is_whole), image["style"])
    if chance(EMPTY):
        return ""
    text = caption(image, shown if close else None)
    return STYLE_TEMPLATES[image["style"]].replace(SLOT, text) if chance(STYLED) else text


def words_of(tokenizer: CLIPTokenizer, tokens: Tensor) -> Tensor:
    """B x 77, which of the tokens are words; the start of a text that has none."""
    special = torch.tensor([tokenizer.bos_token_id, tokenizer.eos_token_id])
    found = ~torch.isin(tokens, special)
    found[:, 0] = ~found.any(1)
    return found


def point(
    tokenizer: CLIPTokenizer, tokens: list[int], things: Sequence[BoxedThing], size: int
) -> tuple[list[int], Tensor]:
    """Where a text names the first classes of an image, and where their boxes are.

    Returns:
        3 places in the text, -1 for none, and of each the boxes, 3 x size x size, as shares of the
        pixels.
    """
    places, masks = [-1] * POINTED, torch.zeros(POINTED, size, size)
    for slot, name in enumerate(list(dict.fromkeys(thing.name for thing in things))[:POINTED]):
        known = word_ids(tokenizer, name)
        found = [place for place, token in enumerate(tokens) if token in known]
        if found:
            places[slot] = found[0]
            for thing in things:
                if thing.name == name:
                    masks[slot] = torch.maximum(masks[slot], covered(thing, size))
    return places, masks


@functools.cache
def word_ids(tokenizer: CLIPTokenizer, name: str) -> frozenset[int]:
    """The tokens of a name and its plural, but not of one of several words or pieces."""
    ids = [tokenizer(text).input_ids[1:-1] for text in (name, plural(name))]
    return frozenset(own[0] for own in ids if len(own) == 1)


def covered(thing: BoxedThing, size: int) -> Tensor:
    """The share of each pixel of a square that lies in a box, size x size."""

    def along(first: float, last: float) -> Tensor:
        edges = torch.arange(size + 1) / size
        overlap = edges[1:].clamp(max=last) - edges[:-1].clamp(min=first)
        return (size * overlap).clamp(0, 1)

    return along(thing.top, thing.bottom)[:, None] * along(thing.left, thing.right)


def pointing(maps: Tensor, words: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
    """How far the attention to words is from what it is to be in their boxes.

    With the mean attention within the boxes i and without o, the loss of a word is the
    cross-entropy of i / (i + o) with `WITHIN`: more than that is no better.

    Args:
        maps: B x hw x N.
        words: as of a `Batch`.
        boxes: B x 3 x h x w, as of a `Batch`, of the pixels of the maps.

    Returns:
        The losses, B x 3, and which of them count: those of words whose boxes are neither less
        than half a pixel nor all but that.
    """
    inside = boxes.flatten(2)
    areas = inside.sum(2)
    counts = (words >= 0) & (areas >= 0.5) & (areas <= inside.shape[2] - 0.5)
    index = words.clamp(min=0)[:, None].expand(-1, maps.shape[1], -1)
    own = maps.gather(2, index).transpose(1, 2)
    within = (own * inside).sum(2) / areas.clamp(min=0.5)
    without = (own * (1 - inside)).sum(2) / (inside.shape[2] - areas).clamp(min=0.5)
    share = (within / (within + without).clamp(min=1e-8)).clamp(1e-4, 1 - 1e-4)
    return F.binary_cross_entropy(share, torch.full_like(share, WITHIN), reduction="none"), counts


class Denoiser(nn.Module):
    """The UNet's predicted noise, and its attention to the words at the strides of the maps."""

    def __init__(self, unet: UNet2DConditionModel):
        super().__init__()
        self.unet = unet
        unet.set_attn_processor({name: _processor(name) for name in unet.attn_processors})

    def forward(
        self, noisy: Tensor, times: Tensor, context: Tensor, seen: Tensor
    ) -> tuple[Tensor, ...]:
        """
        Returns:
            B x 4 x h x w, and the maps of each of `POINTING_BLOCKS`, B x hw x N.
        """
        recorder = AttentionMaps()
        noise = self.unet(
            noisy,
            times,
            context,
            encoder_attention_mask=seen,
            cross_attention_kwargs={"attention_maps": recorder},
        ).sample
        maps = recorder.take()
        return noise, *(maps[str(pixels)] for pixels in POINTING_BLOCKS)


def _processor(name: str) -> FusedAttention | RecordedAttention:
    """That of an attention layer of the UNet."""
    for pixels, blocks in POINTING_BLOCKS.items():
        if ".attn2." in name and name.startswith(blocks):
            return RecordedAttention(str(pixels))
    return FusedAttention()


class Learner(tiny_training.Learner):
    """The UNet with optimizer, schedule and averaged weights, on a frozen text encoder."""

    PARTS = ("unet", "average", "optimizer", "schedule")

    def __init__(self, clip: Path, unet: UNet2DConditionModel, args: argparse.Namespace):
        super().__init__(args.device)
        self.tokenizer = CLIPTokenizer.from_pretrained(clip)
        self.text_encoder = CLIPTextModel.from_pretrained(clip, dtype=torch.float32)
        self.text_encoder.requires_grad_(False).eval().to(args.device)
        self.unet = unet.train().to(args.device)
        self.average = EMAModel(self.unet.parameters(), decay=AVERAGING, foreach=True)
        self.optimizer = torch.optim.AdamW(
            self.unet.parameters(), lr=args.rate, weight_decay=0.01, fused=args.device == "cuda"
        )
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(
            self.optimizer, args.rate, total_steps=args.steps, pct_start=0.05
        )
        self.noise, self.snr = noise_schedule(), SNR.to(args.device)
        self._denoisers: dict[tuple[int, ...], Callable] = {}

    def denoiser(self, *inputs: Tensor) -> Callable[..., tuple[Tensor, ...]]:
        """What computes for inputs of these shapes: on a GPU a CUDA graph, which is recorded once.

        The UNet is so small that Python would be most of the time.
        """
        shape = tuple(inputs[0].shape)
        if shape not in self._denoisers:
            module = Denoiser(self.unet)
            if self.device == "cuda":
                module = torch.cuda.make_graphed_callables(
                    module, tuple(one.clone() for one in inputs), allow_unused_input=True
                )
            self._denoisers[shape] = module
        return self._denoisers[shape]

    def update(self, batch: Batch) -> None:
        batch = Batch(*(own.to(self.device, non_blocking=True) for own in batch))
        with torch.no_grad():
            context = self.text_encoder(batch.tokens).last_hidden_state
        noisy = self.noise.add_noise(batch.latents, batch.noise, batch.times)
        inputs = noisy, batch.times, context, batch.seen
        found, *maps = self.denoiser(*inputs)(*inputs)
        errors = F.mse_loss(found, batch.noise, reduction="none").mean((1, 2, 3))
        weights = (GREATEST_SNR / self.snr[batch.times]).clamp(max=1)
        # Without noise the UNet sees where things are; in noise it can only guess.
        clear = (1 - batch.times / len(self.snr))[:, None]
        loss = (errors * weights).mean()
        for pixels, own in zip(POINTING_BLOCKS, maps, strict=True):
            missed, counts = pointing(own, batch.words, F.avg_pool2d(batch.boxes, pixels))
            loss = loss + POINTING * (missed * counts * clear).sum() / counts.sum().clamp(min=1)
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.unet.parameters(), 1.0)
        self.optimizer.step()
        self.schedule.step()
        self.average.step(self.unet.parameters())
        self.losses.append(errors.detach().mean())

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


def write(pipeline: StableDiffusionPipeline, clip: Path, folder: Path) -> None:
    """Writes the model in half precision, without a trace of the machine.

    Args:
        clip: folder of the tokenizer, whose files are taken over.
    """
    pipeline.to("cpu", torch.float16).save_pretrained(folder)
    # The VAE's config would name the folder that it came from, and the tokenizer's that it is here.
    config = json.loads((folder / "vae" / "config.json").read_text())
    del config["_name_or_path"]
    (folder / "vae" / "config.json").write_text(json.dumps(config, indent=2) + "\n", "utf-8")
    shutil.rmtree(folder / "tokenizer")
    (folder / "tokenizer").mkdir()
    for name in TOKENIZER_FILES:
        shutil.copyfile(clip / name, folder / "tokenizer" / name)


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
    tiny_training.add_arguments(parser, steps=4000, batch=16, rate=2e-3)
    args = parser.parse_args()
    hide_library_bars()
    torch.manual_seed(args.seed)
    torch.set_float32_matmul_precision("high")
    data = prepare(args)
    boxed = [image for image in data if image["things"]]
    unet = make_unet(
        json.loads((args.clip / "config.json").read_text())["text_config"]["hidden_size"]
    )
    if args.unet:
        start_from(unet, args.unet)
    learner = Learner(args.clip, unet, args)

    def draw(step: int) -> Batch:
        close = chance(CLOSE_FIRST if step < FIRST_PART * args.steps else CLOSE_THEN)
        return draw_batch(boxed if close else data, learner.tokenizer, args.batch, close)

    tiny_training.train(learner, draw, args.work / "diffusion.pt", SAVE_EVERY, args)
    pipeline = learner.pipeline(args.vae)
    sample_sheet(pipeline, args.seed).save(args.work / "samples.png")
    draw_losses(learner.losses, args.work / "losses.png")
    with new_folder(args.output) as folder:
        write(pipeline, args.clip, folder)
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
    with exit_on_user_error():
        main()
