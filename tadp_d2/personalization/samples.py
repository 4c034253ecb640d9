"""What a model draws by prompts: on a sheet, and while it learns on one that grows by rows."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from textwrap import shorten, wrap

import torch
from PIL import Image

from tadp_d2.data.images import decode
from tadp_d2.files import replacing
from tadp_d2.personalization.model import TrainableDiffusion
from tadp_d2.personalization.settings import PersonalizationSettings
from tadp_d2.visualization.sheet import contact_sheet

GUIDANCE = 7.5
# Letters that fit above an image.
_TITLE = 40
# And in a line left of a row.
_LABEL = 12


@torch.no_grad()
def draw_sample(
    model: TrainableDiffusion, prompt: str, size: int, steps: int, precision: str, seed: int
) -> Image.Image:
    """An image of size x size pixels; same seed, same initial noise, on every device."""
    pipeline = model.pipeline()
    with model.autocast(precision):
        latents = pipeline(
            prompt,
            height=size,
            width=size,
            num_inference_steps=steps,
            guidance_scale=GUIDANCE,
            generator=torch.Generator().manual_seed(seed),
            output_type="latent",
        ).images
    return pipeline.image_processor.postprocess(model.decode(latents), output_type="pil")[0]


def draw_samples(
    model: TrainableDiffusion,
    prompts: Sequence[str],
    seeds: Sequence[int],
    size: int,
    steps: int,
    precision: str,
) -> list[list[Image.Image]]:
    """A row of images for each prompt, with one for each seed (TADP, figures S4 to S6)."""
    return [
        [draw_sample(model, prompt, size, steps, precision, seed) for seed in seeds]
        for prompt in prompts
    ]


def write_rows(
    path: Path, labels: Sequence[str], rows: Sequence[Sequence[Image.Image]], titles: Sequence[str]
) -> None:
    """Writes a sheet with a row of images under each label; `titles` are those of the columns."""
    images = [image for row in rows for image in row]
    labels = tuple("\n".join(wrap(label, _LABEL)) for label in labels)
    sheet = contact_sheet(images, len(titles), tuple(titles), rows=labels)
    with replacing(path) as temporary:
        sheet.save(temporary, format="PNG")


class SampleSheet:
    """Rows of images, one row for each step at which samples were drawn.

    The images are kept as `samples/<step>_<column>_<hash>.png`, the sheet is `samples.png`. The
    hash is of prompt and sampler, so that a sheet shows no rows of others.
    """

    def __init__(
        self, folder: Path, prompts: Sequence[str], steps: int, settings: PersonalizationSettings
    ):
        """
        Args:
            folder: of the run.
            prompts: one for each column; the columns start from different noise.
            steps: of the sampler.
        """
        self._folder = folder
        self._prompts = prompts
        self._steps = steps
        drawn = (hashlib.sha256(f"{steps} {prompt}".encode()).hexdigest() for prompt in prompts)
        self._columns = [f"{column}_{digest[:8]}" for column, digest in enumerate(drawn)]
        self._settings = settings

    def add_row(self, model: TrainableDiffusion, step: int) -> None:
        """Draws the row of a step, unless it is there."""
        settings = self._settings
        for column, prompt in enumerate(self._prompts):
            path = self._path(step, column)
            if not path.exists():
                image = draw_sample(
                    model,
                    prompt,
                    settings.size,
                    self._steps,
                    settings.precision,
                    settings.seed + column,
                )
                with replacing(path) as temporary:
                    image.save(temporary, format="PNG")
        self._write(step)

    def _write(self, last: int) -> None:
        columns = range(len(self._prompts))
        first = (self._folder / "samples").glob(f"*_{self._columns[0]}.png")
        steps = sorted(int(path.stem.split("_")[0]) for path in first)
        rows = {step: [self._path(step, c) for c in columns] for step in steps if step <= last}
        whole = {step: row for step, row in rows.items() if all(path.exists() for path in row)}
        images = [decode(path) for row in whole.values() for path in row]
        titles = tuple(shorten(prompt, _TITLE, placeholder=" ...") for prompt in self._prompts)
        labels = tuple(f"step {step}" for step in whole)
        sheet = contact_sheet(images, len(self._prompts), titles, rows=labels)
        with replacing(self._folder / "samples.png") as temporary:
            sheet.save(temporary, format="PNG")

    def _path(self, step: int, column: int) -> Path:
        return self._folder / "samples" / f"{step:06}_{self._columns[column]}.png"
