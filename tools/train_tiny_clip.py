#!/usr/bin/env python
"""Trains the tiny CLIP that comes with the package: a text encoder and an image encoder.

They learn together which text belongs to which of a batch's synthetic images, scenes, streets and
rooms in all styles. Most of the first batches are close-ups of objects. Each image has a text in
varied wording (`tiny_texts`); texts that read alike count as one. A text such as "a dog" is true of
many images of a batch, which says little about dogs. So the model also learns which of the short
texts of a class, place, room or style is true of each image. Stopped and started again it
continues. It leaves the model in transformers' format and half precision, and beside it
`recipe.json`: the command, the hash of the weights, and the zero-shot accuracy on other images.
On a GPU it takes minutes, on two cores hours. Nobody needs to run this to use the project; it is
here so that the weights can be made again.

    python tools/train_tiny_clip.py tadp_d2/synthetic/clip
"""

import argparse
import json
from pathlib import Path
from typing import NamedTuple

import tiny_training
import torch
from tiny_crops import chance, close_up, random_index, seen
from tiny_images import kept_samples
from tiny_texts import styled, varied, vocabulary
from torch import Tensor
from torch.nn import functional as F
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPTokenizer
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from tadp_d2.errors import exit_on_user_error
from tadp_d2.files import new_folder, sha256
from tadp_d2.progress import hide_library_bars
from tadp_d2.synthetic.tiny_clip import QUESTIONS, WEIGHTS, measure, truths
from tadp_d2.synthetic.tiny_tokenizer import CONTEXT_LENGTH, make_tokenizer, save_tokenizer

IMAGE_SIZE, PATCH = 128, 8
TEXT_WIDTH, IMAGE_WIDTH, PROJECTION = 128, 192, 128
# Share of images that are close-ups, in the first part of the training and after it; their side as
# shares of the image's height.
FIRST_PART, CLOSE_FIRST, CLOSE_THEN = 0.5, 0.8, 0.35
CLOSE_SIDES = (0.4, 0.75)
TEXT_PARTS = 6
SAVE_EVERY = 100


def make_clip(tokenizer: CLIPTokenizer) -> CLIPModel:
    size = len(tokenizer)
    return CLIPModel(
        CLIPConfig(
            text_config={
                "vocab_size": size,
                "hidden_size": TEXT_WIDTH,
                "intermediate_size": 4 * TEXT_WIDTH,
                "num_hidden_layers": 3,
                "num_attention_heads": 4,
                "max_position_embeddings": CONTEXT_LENGTH,
                "projection_dim": PROJECTION,
                "bos_token_id": size - 2,
                "eos_token_id": size - 1,
                "pad_token_id": size - 1,
            },
            vision_config={
                "hidden_size": IMAGE_WIDTH,
                "intermediate_size": 4 * IMAGE_WIDTH,
                "num_hidden_layers": 4,
                "num_attention_heads": 6,
                "image_size": IMAGE_SIZE,
                "patch_size": PATCH,
                "projection_dim": PROJECTION,
            },
            projection_dim=PROJECTION,
        )
    )


class Batch(NamedTuple):
    """
    Attributes:
        images: B x 3 x 128 x 128, 0 to 255, uint8.
        tokens: B x N, of the texts, the rest of a row filled up with the end of the text.
        same: B, equal for equal texts; -1 for an empty one.
        answers: for each of `tiny_clip.QUESTIONS` the images that are asked, and of each of them
            the probabilities of the answers: those that are true of it share it.
    """

    images: Tensor
    tokens: Tensor
    same: Tensor
    answers: list[tuple[Tensor, Tensor]]


def draw_batch(images: list[dict], tokenizer: CLIPTokenizer, size: int, close: float) -> Batch:
    """
    Args:
        images: as `kept_samples` returns them.
        close: share of close-ups of those that have boxes.
    """
    crops, texts, true = [], [], []
    for _ in range(size):
        image = images[random_index(len(images))]
        mirrored = chance(0.5)
        pixels = image["image"].flip(-1) if mirrored else image["image"]
        things = seen(image["things"], mirrored)
        is_whole = not things or not chance(close)
        if not is_whole:
            low, high = CLOSE_SIDES
            side = low + (high - low) * float(torch.rand(()))
            pixels, things = close_up(pixels, things, round(side * pixels.shape[1]))
        shape = (IMAGE_SIZE, IMAGE_SIZE)
        crop = F.interpolate(pixels[None].float(), shape, mode="bilinear", antialias=True)[0]
        crops.append(crop.round().clamp(0, 255).byte())
        texts.append(styled(varied(image, things, mirrored, is_whole), image["style"]))
        true.append(truths(image["style"], image["setting"], [thing.name for thing in things]))
    order = {text: index for index, text in enumerate(texts)}
    return Batch(
        torch.stack(crops),
        tokenized(tokenizer, texts),
        torch.tensor([order[text] if text else -1 for text in texts]),
        [answered(true, asked, list(answers)) for asked, answers in QUESTIONS.items()],
    )


def tokenized(tokenizer: CLIPTokenizer, texts: list[str]) -> Tensor:
    """B x N, as long as the longest."""
    return tokenizer(texts, truncation=True, padding=True, return_tensors="pt").input_ids


def answered(
    truths: list[dict[str, set[str]]], asked: str, answers: list[str]
) -> tuple[Tensor, Tensor]:
    """Which images a question is asked about, and the probabilities of its answers for each."""
    about = [index for index, own in enumerate(truths) if asked in own]
    rights = [truths[index][asked] for index in about]
    shares = [[float(own in right) / len(right) for own in answers] for right in rights]
    return torch.tensor(about, dtype=torch.long), torch.tensor(shares).view(-1, len(answers))


def normalized(images: Tensor) -> Tensor:
    """As CLIP reads them, of 0 to 255."""
    mean, std = (
        torch.tensor(values, device=images.device).view(3, 1, 1)
        for values in (OPENAI_CLIP_MEAN, OPENAI_CLIP_STD)
    )
    return (images / 255 - mean) / std


def contrast(scores: Tensor, same: Tensor) -> Tensor:
    """CLIP's loss, where each of several equal texts belongs to the images of all.

    Args:
        scores: B x B, of image and text.
        same: B, as of a `Batch`; empty texts belong to no image.
    """
    told = same >= 0
    equal = (same[:, None] == same[None]) & told
    targets = equal.float() / equal.sum(1, keepdim=True).clamp(min=1)
    # An empty text is no candidate either.
    scores = scores.masked_fill(~told[None], -1e4)
    by_image = -(targets * scores.log_softmax(1)).sum(1)[told]
    by_text = -(targets * scores.T.log_softmax(1)).sum(1)[told]
    return (by_image.mean() + by_text.mean()) / 2


class Learner(tiny_training.Learner):
    """The model with optimizer and schedule."""

    PARTS = ("model", "optimizer", "schedule")

    def __init__(self, tokenizer: CLIPTokenizer, steps: int, rate: float, device: str = "cpu"):
        super().__init__(device)
        self.tokenizer = tokenizer
        texts = [text for answers in QUESTIONS.values() for text in answers.values()]
        self.answers = tokenized(tokenizer, texts)
        self.model = make_clip(tokenizer).train().to(device)
        decayed = [p for p in self.model.parameters() if p.ndim > 1]
        others = [p for p in self.model.parameters() if p.ndim <= 1]
        groups = [{"params": decayed, "weight_decay": 0.05}, {"params": others, "weight_decay": 0}]
        self.optimizer = torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.98))
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(
            self.optimizer, rate, total_steps=steps, pct_start=0.08
        )

    def embed(self, tokens: Tensor) -> Tensor:
        """Normalized embeddings of texts, B x P, of their tokens, B x N."""
        end = self.tokenizer.eos_token_id
        lengths = (tokens != end).sum(1) + 1
        embedded = torch.empty(len(tokens), PROJECTION, device=self.device)
        # Some of about equal length at a time: most texts are short.
        for part in lengths.argsort().chunk(TEXT_PARTS):
            rows = tokens[part, : int(lengths[part].max())].to(self.device)
            output = self.model.text_model(rows).pooler_output
            part = part.to(self.device)
            embedded = embedded.index_put((part,), self.model.text_projection(output))
        return F.normalize(embedded, dim=-1)

    def update(self, batch: Batch) -> None:
        images = normalized(batch.images.to(self.device).float())
        output = self.model.vision_model(images).pooler_output
        of_images = F.normalize(self.model.visual_projection(output), dim=-1)
        of_texts = self.embed(batch.tokens)
        of_answers = self.embed(self.answers).split([len(own) for own in QUESTIONS.values()])
        scale = self.model.logit_scale.exp().clamp(max=100)
        loss = contrast(scale * of_images @ of_texts.T, batch.same.to(self.device))
        for embedded, (about, shares) in zip(of_answers, batch.answers, strict=True):
            if len(about):
                scores = scale * of_images[about.to(self.device)] @ embedded.T
                missed = -(shares.to(self.device) * scores.log_softmax(1)).sum(1)
                # Questions count by the number of images that they are asked about.
                loss = loss + missed.sum() / len(batch.same)
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.schedule.step()
        self.losses.append(loss.item())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", type=Path, help="new or empty folder")
    tiny_training.add_arguments(parser, steps=2500, batch=256, rate=1.5e-3)
    args = parser.parse_args()
    hide_library_bars()
    torch.manual_seed(args.seed)
    torch.set_float32_matmul_precision("high")
    images = kept_samples(args.work, args.images, args.seed)
    tokenizer = make_tokenizer(vocabulary(images), 2**14)
    learner = Learner(tokenizer, args.steps, args.rate, args.device)

    def draw(step: int) -> Batch:
        close = CLOSE_FIRST if step < FIRST_PART * args.steps else CLOSE_THEN
        return draw_batch(images, tokenizer, args.batch, close)

    tiny_training.train(learner, draw, args.work / "clip.pt", SAVE_EVERY, args)
    with new_folder(args.output) as folder:
        learner.model.half().cpu().save_pretrained(folder)
        save_tokenizer(learner.tokenizer, folder)
        square = {"height": IMAGE_SIZE, "width": IMAGE_SIZE}
        CLIPImageProcessor(size=square, crop_size=square).save_pretrained(folder)
        recipe = {
            "command": "python tools/train_tiny_clip.py FOLDER",
            "seed": args.seed,
            "images": args.images,
            "steps": args.steps,
            "batch": args.batch,
            "learning rate": args.rate,
            "sha256": sha256(folder / WEIGHTS),
            "zero-shot accuracy": measure(folder),
        }
        (folder / "recipe.json").write_text(json.dumps(recipe, indent=2) + "\n", "utf-8")
    for asked, found in recipe["zero-shot accuracy"].items():
        print(
            f"{asked}: {found['accuracy']:.1%} of {found['images']}, chance {found['chance']:.1%}"
        )


if __name__ == "__main__":
    with exit_on_user_error():
        main()
