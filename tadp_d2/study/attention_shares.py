"""What looks at the words of a caption, in the tiny diffusion model as it comes?

Maps are compared within and without the boxes of an image's objects: those of the words that name
a class with the boxes of that class, those of the tokens behind the words with all boxes.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.data import MetadataCatalog
from detectron2.structures import BoxMode
from torch import Tensor
from torch.nn import functional as F

from tadp_d2.config.load import load_config
from tadp_d2.data.catalog import read_entries
from tadp_d2.data.images import read_rgb
from tadp_d2.data.loader import load_captions
from tadp_d2.diffusion.prompt_words import Word
from tadp_d2.inference.word_maps import (
    AttentionProbe,
    Prompt,
    end_of_text,
    load_captions_conditioner,
    load_untrained,
    make_prompts,
)
from tadp_d2.study.identity import identity
from tadp_d2.study.jobs import Job
from tadp_d2.synthetic.data_folder import MODEL_FOLDER
from tadp_d2.synthetic.sentences import plural
from tadp_d2.synthetic.training_samples import STYLE_TEMPLATES

DATASETS = {"photo": "voc_2007_test", "watercolor": "watercolor_test", "comic": "comic_test"}
_CONFIG = "quick_schedules/voc2watercolor_simple"
_WORDS, _END = "words", "end of text"
_LEVELS = {"s4": 16, "s5": 32}


def jobs(world: Path, folder: Path) -> list[Job]:
    """One job for each style.

    Args:
        world: as `tadp-d2 synth` writes it, and as `DETECTRON2_DATASETS` names it.
        folder: of the results.
    """
    made_of = identity(world)
    return [
        Job(folder / f"{style}.json", look, {"world": world, "style": style}, made_of)
        for style in DATASETS
    ]


def look(world: Path, style: str, pictures: int | None = None) -> dict[str, Any]:
    """Looks at test images in a style, under their captions in its words.

    Args:
        pictures: how many of them; None for all.

    Returns:
        "style", and "words" and "end of text": level -> for each word or image the attention
        within the boxes as a multiple of that without.
    """
    dataset = DATASETS[style]
    overrides = ["MODEL.DIFFUSION.WEIGHTS", str(world / MODEL_FOLDER), "MODEL.DEVICE", "cpu"]
    overrides += ["TEXT.MODIFIER", STYLE_TEMPLATES[style]]
    cfg = load_config(_CONFIG, overrides=overrides)
    conditioning, probe = load_captions_conditioner(cfg), AttentionProbe(cfg, load_untrained(cfg))
    captions, names = load_captions(cfg, dataset), MetadataCatalog.get(dataset).thing_classes
    ratios: dict[str, dict[str, list[float]]] = {
        kind: {level: [] for level in _LEVELS} for kind in (_WORDS, _END)
    }
    for entry in read_entries(dataset)[:pictures]:
        picture, _ = read_rgb(Path(entry["file_name"]))
        prompt = make_prompts(conditioning, captions[str(entry["image_id"])])["caption"]
        boxes = _boxes(entry, names)
        words, masks = _named(prompt, boxes)
        kinds = [_WORDS] * len(words) + [_END]
        masks.append(np.any(list(boxes.values()), axis=0))
        asked = prompt._replace(words=words + end_of_text(prompt).words)
        maps = probe(np.asarray(picture), asked)
        for level in _LEVELS:
            for kind, heat, mask in zip(kinds, maps[level], masks, strict=True):
                ratio = _ratio(heat, mask)
                if ratio is not None:
                    ratios[kind][level].append(ratio)
    return {"style": style, **ratios}


def _boxes(entry: dict[str, Any], names: Sequence[str]) -> dict[str, np.ndarray]:
    """Class -> H x W, whether a pixel is in a box of it."""
    masks: dict[str, np.ndarray] = {}
    for thing in entry["annotations"]:
        box = BoxMode.convert(thing["bbox"], thing["bbox_mode"], BoxMode.XYXY_ABS)
        left, top, right, bottom = (round(side) for side in box)
        empty = np.zeros((entry["height"], entry["width"]), bool)
        masks.setdefault(names[thing["category_id"]], empty)[top:bottom, left:right] = True
    return masks


def _named(prompt: Prompt, boxes: dict[str, np.ndarray]) -> tuple[list[Word], list[np.ndarray]]:
    """The words of a prompt that name a class of the image, and the boxes of that class."""
    spelled = boxes | {plural(name): mask for name, mask in boxes.items()}
    words = [word for word in prompt.words if word.text in spelled]
    return words, [spelled[word.text] for word in words]


def _ratio(heat: Tensor, mask: np.ndarray) -> float | None:
    """Mean within a mask over mean without; None where one is less than a place of the map."""
    shares = F.interpolate(
        torch.from_numpy(mask)[None, None].float(), tuple(heat.shape), mode="area"
    )
    within = shares[0, 0] > 0.5
    if within.all() or not within.any():
        return None
    return float(heat[within].mean() / heat[~within].mean())


def table(results: Sequence[dict[str, Any]]) -> str:
    """The results in Markdown: the median, and how often there is more within than without."""
    columns = [(kind, level) for kind in (_WORDS, _END) for level in _LEVELS]
    titles = [f"{kind}, stride {_LEVELS[level]}" for kind, level in columns]
    lines = [f"| style | {' | '.join(titles)} |", "| --- " * (1 + len(columns)) + "|"]
    for result in results:
        ratios = [np.array(result[kind][level]) for kind, level in columns]
        cells = [f"{np.median(own):.2f} ({np.mean(own > 1):.0%})" for own in ratios]
        lines.append(f"| {result['style']} | {' | '.join(cells)} |")
    told = "Attention within the boxes over attention without: median, and share of those above 1."
    return "\n".join([*lines, "", told])
