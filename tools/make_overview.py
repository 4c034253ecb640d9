#!/usr/bin/env python
"""Makes the README's image: what looks at which word, before and after training, and detections.

After `make demo`, with DETECTRON2_DATASETS=demo/data:

    python tools/make_overview.py demo/detection_500 watercolor_test 5003 5012 5007
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from detectron2.data import DatasetCatalog
from PIL import Image, ImageDraw, ImageFont

from tadp_d2.config.load import load_config
from tadp_d2.data.images import read_rgb
from tadp_d2.data.loader import load_captions
from tadp_d2.files import replacing
from tadp_d2.inference.predictor import Predictor
from tadp_d2.inference.word_maps import (
    AttentionProbe,
    load_untrained,
    make_prompts,
)
from tadp_d2.modeling.backbone import find_diffusion_backbone
from tadp_d2.progress import hide_library_bars
from tadp_d2.synthetic.sentences import plural
from tadp_d2.visualization.objects import draw_detections
from tadp_d2.visualization.sheet import contact_sheet

# Stride 16.
LEVEL = "s4"
TITLES = ("target", "attention to each word, before training", "the same, trained", "detections")
# Orange, blue, pink, yellow: told apart without color vision, too.
COLORS = ((255, 150, 0), (0, 160, 255), (255, 90, 190), (240, 228, 66))


def look(
    probes: Sequence[AttentionProbe], predictor: Predictor, file: Path, caption: str
) -> list[Image.Image]:
    """An image, two with the maps of the words that name a class, its detections."""
    picture, _ = read_rgb(file)
    pixels = np.asarray(picture)
    prompt = make_prompts(predictor.model.conditioner, caption)["caption"]
    names = {*predictor.classes, *map(plural, predictor.classes)}
    prompt = prompt._replace(words=[word for word in prompt.words if word.text in names])
    texts = [word.text for word in prompt.words]
    heats = [draw_words(picture, texts, probe(pixels, prompt)[LEVEL].numpy()) for probe in probes]
    instances = predictor(pixels, caption)["instances"]
    return [picture, *heats, draw_detections(pixels, instances, predictor.classes)]


def draw_words(picture: Image.Image, words: Sequence[str], maps: np.ndarray) -> Image.Image:
    """Maps over an image in dark gray, each in a color, from its least to its most attention.

    Args:
        picture: RGB; the result has its size.
        maps: W x h x w, one for each word.
    """
    drawn = picture.convert("L").point(lambda value: 20 + value // 2).convert("RGB")
    for heat, color in zip(maps, COLORS, strict=False):
        scaled = (heat - heat.min()) / max(float(np.ptp(heat)), 1e-12)
        mask = Image.fromarray((scaled * 215).astype(np.uint8))
        mask = mask.resize(picture.size, Image.Resampling.BICUBIC)
        drawn.paste(Image.new("RGB", picture.size, color), mask=mask)
    draw = ImageDraw.Draw(drawn)
    # The same in the sheet, whatever the image's size.
    size = max(picture.width / 360, picture.height / 270) * 18
    font, left = ImageFont.load_default(size), size / 2
    for word, color in zip(words, COLORS, strict=False):
        draw.text((left, size / 3), word, color, font, stroke_width=2, stroke_fill="black")
        left += draw.textlength(word, font) + size
    return drawn


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="output folder of a training")
    parser.add_argument("dataset", help="of the pictures; in DETECTRON2_DATASETS")
    parser.add_argument("images", nargs="+", metavar="ID")
    parser.add_argument("--output", type=Path, default=Path("docs/overview.jpg"))
    args = parser.parse_args()
    hide_library_bars()
    weights = str(args.run / "model_final.pth")
    cfg = load_config(str(args.run / "config.yaml"), overrides=["MODEL.WEIGHTS", weights])
    predictor = Predictor(cfg)
    backbones = load_untrained(cfg), find_diffusion_backbone(predictor.model)
    probes = [AttentionProbe(cfg, backbone) for backbone in backbones]
    records = {str(record["image_id"]): record for record in DatasetCatalog.get(args.dataset)}
    captions = load_captions(cfg, args.dataset)
    pictures = []
    for image_id in args.images:
        file = Path(records[image_id]["file_name"])
        pictures += look(probes, predictor, file, captions[image_id])
    sheet = contact_sheet(pictures, len(TITLES), TITLES)
    with replacing(args.output) as temporary:
        sheet.save(temporary, format="JPEG", quality=88)


if __name__ == "__main__":
    main()
