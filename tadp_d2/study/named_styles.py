"""Does the tiny diffusion model know what its words mean?

It draws images of each class in each style. A detector that was trained on the synthetic data sets
detects what they show, without reading their prompts; the tiny CLIP, which was not trained on drawn
samples, tells their style. By chance one in as many is right as there are classes, or styles.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from PIL import Image

from tadp_d2.captioning.zero_shot_tagger import ZeroShotTagger
from tadp_d2.conditioning.domains import SLOT
from tadp_d2.config.load import load_config
from tadp_d2.data.datasets.art import SHARED_CLASSES
from tadp_d2.data.images import read_rgb
from tadp_d2.data.readers.pascal_voc import read_annotation, read_split
from tadp_d2.errors import UserError
from tadp_d2.files import replacing, sha256
from tadp_d2.inference.predictor import Predictor
from tadp_d2.personalization.model import TrainableDiffusion
from tadp_d2.personalization.samples import draw_sample
from tadp_d2.study.identity import identity
from tadp_d2.study.jobs import Job
from tadp_d2.synthetic.data_folder import CLIP_FOLDER, MODEL_FOLDER
from tadp_d2.synthetic.tiny_clip import QUESTIONS
from tadp_d2.synthetic.training_samples import STYLE_TEMPLATES
from tadp_d2.tasks.task import get_task
from tadp_d2.visualization.sheet import contact_sheet

# Style -> where its images are in the data folder.
_FOLDERS = {"photo": "VOC2007", "watercolor": "watercolor", "comic": "comic"}
_TEST = "test"
_PLACES = ("in a park", "on a street", "on a beach", "in a meadow")
_SIZE, _STEPS = 192, 25
# What the detector reads with every image: it must not name the class.
_NO_CAPTION = ""
# Images of a style by which its judges are judged.
_JUDGED = 60
# What a finished training leaves, of which the detector is made.
_CONFIG, _CHECKPOINT = "config.yaml", "model_final.pth"


def check_detector(run: Path) -> None:
    """
    Raises:
        UserError: the folder is not that of a detector's finished training.
    """
    expected = "expected the output of a detector's finished training, such as that of make demo"
    for name in (_CONFIG, _CHECKPOINT):
        if not (run / name).is_file():
            raise UserError(f"--detector {run}: there is no {name}; {expected}")
    task = get_task(load_config(str(run / _CONFIG))).name
    if task != "detection":
        raise UserError(f"--detector {run}: its task is {task}; {expected}")


def jobs(world: Path, folder: Path, seeds: Sequence[int], run: Path) -> list[Job]:
    """One job for each style.

    Args:
        world: as `tadp-d2 synth` writes it.
        folder: of the results and of the images.
        seeds: one image of each class for each.
        run: output folder of a detector's training on the synthetic data sets.
    """
    made_of = {
        **identity(world),
        "detector": sha256(run / _CHECKPOINT),
        "seeds": list(seeds),
    }
    shared = {"world": world, "folder": folder, "seeds": list(seeds), "run": run}
    return [
        Job(folder / f"{style}.json", draw_and_judge, {**shared, "style": style}, made_of)
        for style in _FOLDERS
    ]


def draw_and_judge(
    world: Path, folder: Path, seeds: list[int], run: Path, style: str
) -> dict[str, Any]:
    """Draws images in a style and judges them, and the synthetic test images by the same judges.

    Returns:
        "asked", "found" and "styles": class, class that was found ("" for nothing) and style that
        was found, of each image; "real_classes" and "real_styles": how often the judges are
        right on the synthetic test images of this style as the VAE passes them on, 0 to 1.
    """
    model = TrainableDiffusion.load(str(world / MODEL_FOLDER))
    detector = Predictor(_judge(world, run))
    judge = _style_judge(world)
    asked, found, styles, pictures = [], [], [], []
    for name in SHARED_CLASSES:
        for seed in seeds:
            caption = f"a {name} {_PLACES[seed % len(_PLACES)]}"
            prompt = STYLE_TEMPLATES[style].replace(SLOT, caption)
            image = draw_sample(model, prompt, _SIZE, _STEPS, "fp32", seed)
            pixels = np.asarray(image)
            asked.append(name)
            found.append(_class(detector, pixels))
            styles.append(_style(judge, pixels))
            pictures.append(image)
    _write_sheet(folder / f"{style}.png", pictures, len(seeds))
    real = _pictures(world, model, style)
    right_classes = [_class(detector, pixels) in names for pixels, names in real]
    right_styles = [_style(judge, pixels) == style for pixels, _ in real]
    return {
        "style": style,
        "asked": asked,
        "found": found,
        "styles": styles,
        "real_classes": float(np.mean(right_classes)),
        "real_styles": float(np.mean(right_styles)),
    }


def _judge(world: Path, run: Path) -> CfgNode:
    """The config of a run, for one that reads nothing about an image."""
    overrides = {
        "MODEL.WEIGHTS": str(run / _CHECKPOINT),
        "MODEL.DIFFUSION.WEIGHTS": str(world / MODEL_FOLDER),
        "MODEL.DEVICE": "cpu",
        "TEXT.MODIFIER": "null",
        "TEXT.MODIFIER_TRAIN": "",
        "TEXT.TOKENS": (),
    }
    pairs = [item for pair in overrides.items() for item in pair]
    return load_config(str(run / _CONFIG), overrides=pairs)


def _class(detector: Predictor, pixels: np.ndarray) -> str:
    """The class of the box with the greatest score among the shared classes."""
    instances = detector(pixels, _NO_CAPTION)["instances"]
    order = instances.scores.argsort(descending=True)
    names = [detector.classes[index] for index in instances.pred_classes[order].tolist()]
    return next((name for name in names if name in SHARED_CLASSES), "")


def _style_judge(world: Path) -> ZeroShotTagger:
    """The tiny CLIP, for the styles of `_FOLDERS`."""
    sentences = [QUESTIONS["style"][style] for style in _FOLDERS]
    return ZeroShotTagger.load(world / CLIP_FOLDER, sentences, "fp32", torch.device("cpu"))


def _style(judge: ZeroShotTagger, pixels: np.ndarray) -> str:
    """The likeliest style."""
    return list(_FOLDERS)[int(judge.probabilities([Image.fromarray(pixels)])[0].argmax())]


def _pictures(
    world: Path, model: TrainableDiffusion, style: str
) -> list[tuple[np.ndarray, set[str]]]:
    """The first test images as the VAE passes them on, with the names of what they show.

    What the VAE loses no sample can have: judges must not look for it.
    """
    root = world / _FOLDERS[style]
    found = []
    for image_id in read_split(root, _TEST, style)[:_JUDGED]:
        image, _ = read_rgb(root / "JPEGImages" / f"{image_id}.jpg")
        annotation = read_annotation(root / "Annotations" / f"{image_id}.xml", SHARED_CLASSES)
        found.append((_through_vae(image, model), {thing.name for thing in annotation.objects}))
    return found


def _through_vae(image: Image.Image, model: TrainableDiffusion) -> np.ndarray:
    pixels = np.array(image.resize((_SIZE, _SIZE)))
    images = torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 127.5 - 1
    decoded = model.decode(model.encode(images))
    return ((decoded[0].permute(1, 2, 0) + 1) * 127.5).round().clamp(0, 255).byte().numpy()


def _write_sheet(file: Path, pictures: list[Image.Image], columns: int) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with replacing(file) as temporary:
        contact_sheet(pictures, columns, rows=SHARED_CLASSES).save(temporary, format="PNG")


def table(results: Sequence[dict[str, Any]]) -> str:
    """The results in Markdown: how often each class and each style was recognised."""
    lines = [
        f"| style | {' | '.join(SHARED_CLASSES)} | all | real images | style | real images |",
        "| --- " * (len(SHARED_CLASSES) + 5) + "|",
    ]
    for result in results:
        hits = np.array(result["asked"]) == np.array(result["found"])
        asked = np.array(result["asked"])
        cells = [f"{hits[asked == name].mean():.0%}" for name in SHARED_CLASSES]
        cells += [f"{hits.mean():.0%}", f"{result['real_classes']:.0%}"]
        right = np.mean([style == result["style"] for style in result["styles"]])
        cells += [f"{right:.0%}", f"{result['real_styles']:.0%}"]
        lines.append(f"| {result['style']} | {' | '.join(cells)} |")
    chances = f"{1 / len(SHARED_CLASSES):.0%} for a class, {1 / len(_FOLDERS):.0%} for a style"
    count = len(results[0]["asked"])
    return "\n".join([*lines, "", f"{count} images in each style; by chance {chances}."])
