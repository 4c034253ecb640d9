"""A run from images to artifact: the two functions that the commands call."""

import datetime
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import tadp_d2
from tadp_d2.data.images import find_image_files
from tadp_d2.device import find_device
from tadp_d2.errors import UserError
from tadp_d2.files import saving
from tadp_d2.personalization import textual_inversion
from tadp_d2.personalization.dreambooth import DreamBooth
from tadp_d2.personalization.latents import LatentSource
from tadp_d2.personalization.model import DEFAULT_WEIGHTS, TrainableDiffusion
from tadp_d2.personalization.objective import Objective
from tadp_d2.personalization.output import OutputFolder
from tadp_d2.personalization.settings import (
    DreamBoothSettings,
    InversionSettings,
    PersonalizationSettings,
)
from tadp_d2.personalization.textual_inversion import TextualInversion
from tadp_d2.personalization.training import TrainingState, Watch, train
from tadp_d2.personalization.training_images import Crops, TrainingImage, read_pictures
from tadp_d2.progress import progress_line
from tadp_d2.records.artifacts import DREAMBOOTH_FILE, token_metadata_path

_PACKAGES = ("torch", "diffusers", "transformers", "peft", "bitsandbytes")


@dataclass(frozen=True)
class PersonalizationRun:
    """What a run works on, besides its settings.

    Attributes:
        images: files and folders; what lies in `output` is left out.
        output: folder of the artifact.
        weights, revision: the base model, as for `tadp_d2.diffusion.families.find_model`.
        device: such as cpu or cuda:1; empty for a GPU if there is one.
        preset: what the settings were derived from, for the metadata.
        resume: continue the run in `output`.
        skip_unreadable: leave out images that cannot be read.
    """

    images: Sequence[str | Path]
    output: Path
    weights: str = DEFAULT_WEIGHTS
    revision: str = ""
    device: str = ""
    preset: str = ""
    resume: bool = False
    skip_unreadable: bool = False


def invert(
    run: PersonalizationRun, settings: InversionSettings, watch: Watch | None = None
) -> Path:
    """Learns a token from images (textual inversion).

    Returns:
        `learned_embeds.safetensors`, with `learned_embeds.json` beside it.

    Raises:
        UserError: the input is wrong, the loss is no number, or the disk refuses a file.
    """
    artifact = run.output / textual_inversion.FILE
    output = OutputFolder(run.output, token_metadata_path(artifact).name)
    _personalize("textual inversion", TextualInversion, run, settings, watch or Watch(), output)
    return artifact


def dreambooth(
    run: PersonalizationRun, settings: DreamBoothSettings, watch: Watch | None = None
) -> Path:
    """Fine-tunes a UNet on images (DreamBooth).

    Returns:
        `unet/`, with `dreambooth.json` beside it; with a trained text encoder, the folder of a
        whole diffusion model around it.

    Raises:
        UserError: the input is wrong, the loss is no number, or the disk refuses a file.
    """
    output = OutputFolder(run.output, DREAMBOOTH_FILE)
    _personalize("dreambooth", DreamBooth, run, settings, watch or Watch(save=250), output)
    return run.output / "unet"


def _personalize(
    method: str,
    make_objective: Callable[[TrainableDiffusion, LatentSource, Any], Objective],
    run: PersonalizationRun,
    settings: PersonalizationSettings,
    watch: Watch,
    output: OutputFolder,
) -> None:
    settings.check()
    watch.check()
    output.check(run.resume)
    device = find_device(run.device)
    if settings.precision == "fp16" and device.type != "cuda":
        raise UserError(f"--precision fp16 needs a GPU, this run is on {device.type}: use bf16")
    paths = list(find_image_files(run.images, run.output))
    model = TrainableDiffusion.load(run.weights, run.revision)
    _check_size(settings, model)
    pictures, skipped = read_pictures(paths, settings.size, run.skip_unreadable)
    _say_what_is_read(pictures, skipped)
    model.to(device)
    base = model.fingerprints()
    identity = _identity(method, settings, pictures, base)
    crops = Crops(pictures, settings.size, settings.flip, settings.center_crop)
    # It finds what is wrong with a token, a prompt or a package: before a folder is made.
    objective = make_objective(model, LatentSource(model, crops), settings)
    if output.open(identity, run.resume):
        print(f"{output.metadata} says that this run is finished", file=sys.stderr)
        return
    with saving(output.path):
        objective.prepare(output.path)
    training = train(objective, output, watch, progress_line("steps"))
    with saving(output.path):
        artifact = objective.export(output.path)
    metadata = {
        **identity,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "model": {"weights": run.weights, "revision": run.revision},
        "artifact": artifact,
        "needs": {part: {**base, **artifact}[part] for part in objective.needs},
        "preset": run.preset,
        "device": str(device),
        "versions": _versions(),
        "skipped": {str(path): reason for path, reason in skipped.items()},
        **_curves(training),
    }
    output.finish(metadata)


def _identity(
    method: str,
    settings: PersonalizationSettings,
    pictures: Sequence[TrainingImage],
    base: Mapping[str, str],
) -> dict[str, Any]:
    return {
        "method": method,
        "base": dict(base),
        "images": [{"file": p.path.name, "sha256": p.sha256} for p in pictures],
        "settings": asdict(settings),
    }


def _curves(training: TrainingState) -> dict[str, Any]:
    return {
        "loss": training.losses,
        "fixed_set_loss": [[step, loss] for step, loss in training.watched.items()],
    }


def _versions() -> dict[str, str]:
    versions = {"tadp_d2": tadp_d2.__version__, "python": sys.version.split()[0]}
    for package in _PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return versions


def _check_size(settings: PersonalizationSettings, model: TrainableDiffusion) -> None:
    if settings.size % model.divisor:
        raise UserError(
            f"--size {settings.size}: this model takes sizes that divide by {model.divisor}"
        )


def _say_what_is_read(pictures: Sequence[TrainingImage], skipped: Mapping[Path, str]) -> None:
    if skipped:
        print(f"{len(skipped)} images cannot be read and are left out:", file=sys.stderr)
        for path, reason in skipped.items():
            print(f"  {path}: {reason}", file=sys.stderr)
    if len(pictures) == 1:
        print(
            f"learning from one image only, {pictures[0].path}: what is learned may be its "
            "content as much as its style",
            file=sys.stderr,
        )
