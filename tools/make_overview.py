#!/usr/bin/env python
"""Makes the README's image: what looks at the caption, before and after training, and detections.

After `make demo`, with DETECTRON2_DATASETS=demo/data:

    python tools/make_overview.py demo/detection_1100 watercolor_test 5003 5012 5007
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from detectron2.data import DatasetCatalog
from PIL import Image

from tadp_d2.config.load import load_config
from tadp_d2.data.images import read_rgb
from tadp_d2.data.loader import load_captions
from tadp_d2.files import replacing
from tadp_d2.inference.predictor import Predictor
from tadp_d2.inference.word_maps import (
    AttentionProbe,
    end_of_text,
    load_trained,
    load_untrained,
    make_prompts,
)
from tadp_d2.progress import hide_library_bars
from tadp_d2.visualization.attention_sheet import draw_heat
from tadp_d2.visualization.gallery import draw_detections
from tadp_d2.visualization.sheet import contact_sheet

# In the tiny model objects look at the end of the text, and at this stride (docs/evidence.md).
LEVEL = "s4"
TITLES = ("target", "attention, before training", "attention, trained", "detections")


def look(
    probes: Sequence[AttentionProbe], predictor: Predictor, file: Path, caption: str
) -> list[Image.Image]:
    """An image, two maps at stride 16, its detections."""
    picture, _ = read_rgb(file)
    pixels = np.asarray(picture)
    prompt = end_of_text(make_prompts(predictor.model.conditioner, caption)["caption"])
    heats = [draw_heat(picture, probe(pixels, prompt)[LEVEL][0].numpy()) for probe in probes]
    instances = predictor(pixels, caption)["instances"]
    return [picture, *heats, draw_detections(pixels, instances, predictor.classes)]


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
    probes = [AttentionProbe(cfg, load(cfg)) for load in (load_untrained, load_trained)]
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
