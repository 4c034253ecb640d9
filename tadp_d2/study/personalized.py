"""Does a learned token, or a fine-tuned UNet, know the look of the images it was learned from?

Both are learned from five images of a style in the synthetic data sets. Then the denoising loss is
measured on other images of that style, under their captions in the modifier's words: before, with
what was learned, and with what was learned from the other style.
"""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from tadp_d2.conditioning.domains import DOMAINS, SLOT
from tadp_d2.data.readers.pascal_voc import read_split
from tadp_d2.data.texts import find_caption_file, read_captions
from tadp_d2.diffusion.stable_diffusion import load_unet
from tadp_d2.diffusion.tokens import ONLY, teach_tokens
from tadp_d2.personalization.model import TrainableDiffusion
from tadp_d2.personalization.objective import held_out_loss
from tadp_d2.personalization.personalize import PersonalizationRun, dreambooth, invert
from tadp_d2.personalization.settings import resolve
from tadp_d2.personalization.training import Watch
from tadp_d2.personalization.training_images import Crops, read_pictures
from tadp_d2.study.identity import identity
from tadp_d2.study.jobs import Job
from tadp_d2.synthetic.data_folder import MODEL_FOLDER

STYLES = ("watercolor", "comic")
METHODS = ("invert", "dreambooth")
LEARNED_FROM, HELD_OUT = 5, 40
# Noises for each image.
DRAWS = 4
_SIZE = 192
# Of the tiny model: the paper's rates are those of Stable Diffusion.
SETTINGS = {
    "invert": {"steps": 100, "rate": 1e-2, "batch": 4, "accumulation": 1, "size": _SIZE},
    "dreambooth": {"steps": 100, "rate": 2e-5, "batch": 4, "size": _SIZE},
}


def jobs(world: Path, folder: Path, seeds: Sequence[int]) -> list[Job]:
    """One job for each seed, method and style.

    Args:
        world: as `tadp-d2 synth` writes it.
        folder: of the results.
    """
    of_world = identity(world)
    return [
        Job(
            folder / f"{method}_{style}_{seed}.json",
            learn_and_measure,
            {"world": world, "folder": folder, "method": method, "style": style, "seed": seed},
            {**of_world, "settings": SETTINGS[method], "seed": seed},
        )
        for seed in seeds
        for method in METHODS
        for style in STYLES
    ]


def learn_and_measure(
    world: Path, folder: Path, method: str, style: str, seed: int
) -> dict[str, Any]:
    """Learns a style and measures the loss on held-out images of every style.

    Returns:
        "method", "style", "seed", and "before" and "after": style -> loss.
    """
    model = TrainableDiffusion.load(str(world / MODEL_FOLDER))
    if method == "invert":
        token = f"<{style}>"
        before = _losses(
            model, world, DOMAINS[style].modifiers["ti"].template.replace(token, style), seed
        )
        file = learn(world, folder, method, style, seed, SETTINGS[method])
        teach_tokens([file], {ONLY: (model.tokenizer, model.text_encoder)})
    else:
        before = _losses(model, world, DOMAINS[style].modifiers["dreambooth"].template, seed)
        model.unet = load_unet(learn(world, folder, method, style, seed, SETTINGS[method]))
    modifier = "ti" if method == "invert" else method
    after = _losses(model, world, DOMAINS[style].modifiers[modifier].template, seed)
    return {"method": method, "style": style, "seed": seed, "before": before, "after": after}


def learn(
    world: Path, folder: Path, method: str, style: str, seed: int, settings: Mapping[str, Any]
) -> Path:
    """Learns a style from images of it; continues what was begun in the same folder.

    Args:
        style: one of `STYLES`, "photo" or "night".
        settings: what differs from the paper's.

    Returns:
        The file of the token `<style>`, or the folder of the UNet.
    """
    run = PersonalizationRun(
        images=_pictures_to_learn_from(world, style, seed),
        output=folder / f"{method}_{style}_{seed}",
        weights=str(world / MODEL_FOLDER),
        resume=True,
    )
    watch = Watch(evaluate=0, sample=0)
    if method == "invert":
        own = {"token": f"<{style}>", "init": style, "seed": seed}
        return invert(run, resolve("invert", "paper-text", {**settings, **own}), watch)
    prompt = "an image at sks night" if style == "night" else "an image in sks style"
    own = {"prompt": prompt, "seed": seed}
    return dreambooth(run, resolve("dreambooth", "paper-text", {**settings, **own}), watch)


def _pictures_to_learn_from(world: Path, style: str, seed: int) -> list[Path]:
    pictures = _pictures(world, style)
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randperm(len(pictures), generator=generator)[:LEARNED_FROM].tolist()
    return [pictures[index] for index in chosen]


def _pictures(world: Path, style: str) -> list[Path]:
    if style == "night":
        return sorted((world / "dark_zurich" / "rgb_anon" / "train").rglob("*.png"))
    if style == "photo":
        root, split = world / "VOC2007", "trainval"
    else:
        root, split = world / style, "train"
    return [root / "JPEGImages" / f"{i}.jpg" for i in read_split(root, split, style)]


def _losses(model: TrainableDiffusion, world: Path, template: str, seed: int) -> dict[str, float]:
    """Style -> loss on its held-out images, under a template around their captions."""
    losses = {}
    for style in STYLES:
        ids = _image_ids(world, style, "test")[:HELD_OUT]
        captions = read_captions(find_caption_file(world / "captions", f"{style}_test"))
        prompts = [template.replace(SLOT, captions[image_id]) for image_id in ids]
        pictures, _ = read_pictures([_picture(world, style, i) for i in ids], _SIZE)
        images = Crops(pictures, _SIZE).middles(len(pictures))
        losses[style] = held_out_loss(model, images, prompts, seed, DRAWS, batch=16)
    return losses


def _image_ids(world: Path, style: str, split: str) -> list[str]:
    return read_split(world / style, split, style)


def _picture(world: Path, style: str, image_id: str) -> Path:
    return world / style / "JPEGImages" / f"{image_id}.jpg"


def table(results: Sequence[Mapping[str, Any]]) -> str:
    """The results in Markdown: mean and standard deviation over seeds, and who won how often."""
    lines = [
        "| learned by | style | before | learned on this style | learned on the other | "
        "this < before | this < other |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for method in METHODS:
        for style in STYLES:
            own = _by_seed(results, method, style)
            (other_style,) = set(STYLES) - {style}
            other = _by_seed(results, method, other_style)
            columns = [
                [result["before"][style] for result in own],
                [result["after"][style] for result in own],
                [result["after"][style] for result in other],
            ]
            cells = [_mean_and_spread(column) for column in columns]
            cells += [_wins(columns[1], columns[0]), _wins(columns[1], columns[2])]
            lines.append(f"| {method} | {style} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _by_seed(results: Sequence[Mapping], method: str, style: str) -> list[Mapping]:
    own = [r for r in results if (r["method"], r["style"]) == (method, style)]
    return sorted(own, key=lambda result: result["seed"])


def _mean_and_spread(values: Sequence[float]) -> str:
    spread = f" ± {statistics.stdev(values):.4f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.4f}{spread}"


def _wins(mine: Sequence[float], others: Sequence[float]) -> str:
    """How often mine is the lower of a pair."""
    return f"{sum(a < b for a, b in zip(mine, others, strict=True))} of {len(mine)}"
