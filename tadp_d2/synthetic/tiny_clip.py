"""The tiny CLIP that comes with the package: text encoder and image encoder of the tiny models.

Its weights lie beside this file in transformers' format, half precision, with `recipe.json`. They
were trained on images and texts of `training_samples` by `tools/train_tiny_clip.py`.
"""

import shutil
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import (
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    CLIPVisionModelWithProjection,
)

from tadp_d2.conditioning.domains import SLOT
from tadp_d2.conditioning.image_encoder import ImageEncoder
from tadp_d2.synthetic.drawing.backdrops import SETTINGS
from tadp_d2.synthetic.drawing.class_figures import CLASSES
from tadp_d2.synthetic.drawing.rooms import KINDS
from tadp_d2.synthetic.drawing.scenes import place
from tadp_d2.synthetic.parallel import in_processes
from tadp_d2.synthetic.training_samples import STYLE_TEMPLATES, draw_turn

SHIPPED = Path(__file__).parent / "clip"
WEIGHTS = "model.safetensors"
# Of the images on which it is measured; nothing was trained on them.
_SEED, _IMAGES = 40_000, 360


# Question -> answer -> the text that is compared with an image.
QUESTIONS = {
    "class, of scenes with one": {name: f"a {name}" for name in CLASSES},
    "class, of scenes with several": {name: f"a {name}" for name in CLASSES},
    "place": {setting: place(setting) for setting in SETTINGS},
    "room": {kind: f"a {kind}" for kind in KINDS},
    "style": {
        style: template.removesuffix(f" of {SLOT}") for style, template in STYLE_TEMPLATES.items()
    },
}


def write_tiny_clip(folder: Path) -> None:
    """Writes the folder of the model, in half precision as it is shipped."""
    shutil.copytree(SHIPPED, folder)


@torch.no_grad()
def measure(folder: Path, count: int = _IMAGES) -> dict[str, dict[str, float]]:
    """Zero-shot accuracy on images that the model was not trained on.

    An answer is right if its text is nearest to the image of all answers' texts, and is true of the
    image: where there are several classes, any of them is right, and chance counts them.

    Args:
        folder: of a CLIP model and its tokenizer in transformers' format.
        count: number of images.

    Returns:
        Question -> "accuracy", "chance", 0 to 1, and "images", the number of those asked about.
    """
    single = {"dtype": torch.float32}
    encoder = ImageEncoder(CLIPVisionModelWithProjection.from_pretrained(folder, **single)).eval()
    texts = _embeddings(folder)
    right: dict[str, list[bool]] = {asked: [] for asked in QUESTIONS}
    chances: dict[str, list[float]] = {asked: [] for asked in QUESTIONS}
    for sample in in_processes(draw_turn, [(index, _SEED) for index in range(count)]):
        pixels = torch.from_numpy(np.array(sample.image)).permute(2, 0, 1)
        embedding = encoder([{"image": pixels}]).embedding[0]
        names = [thing.name for thing in sample.things]
        for asked, true in truths(sample.style, sample.setting, names).items():
            answers = list(QUESTIONS[asked])
            found = answers[int((texts[asked] @ embedding).argmax())]
            right[asked].append(found in true)
            chances[asked].append(len(true) / len(answers))
    return {
        asked: {
            "accuracy": round(float(np.mean(right[asked])), 4),
            "chance": round(float(np.mean(chances[asked])), 4),
            "images": len(right[asked]),
        }
        for asked in QUESTIONS
    }


def _embeddings(folder: Path) -> dict[str, Tensor]:
    """Question -> normalized embeddings of the answers' texts."""
    model = CLIPTextModelWithProjection.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = CLIPTokenizer.from_pretrained(folder)

    def embed(texts: Sequence[str]) -> Tensor:
        tokens = tokenizer(texts, padding=True, return_tensors="pt").input_ids
        return F.normalize(model(tokens).text_embeds, dim=-1)

    return {asked: embed(list(answers.values())) for asked, answers in QUESTIONS.items()}


def truths(style: str, setting: str, names: Collection[str]) -> dict[str, set[str]]:
    """What is asked about an image -> the true answers.

    Args:
        style, setting: as of a `Sample`.
        names: of the classes that it shows, for a scene.
    """
    found = {"style": {style}}
    if setting in KINDS:
        return found | {"room": {setting}}
    if setting in SETTINGS:
        kind = "one" if len(set(names)) == 1 else "several"
        found |= {"place": {setting}, f"class, of scenes with {kind}": set(names)}
    return found
