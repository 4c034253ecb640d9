"""Pictures to learn from, and runs of a few steps on the tiny diffusion model."""

import copy

import numpy as np
import pytest
from PIL import Image

from tadp_d2.cli import main
from tadp_d2.personalization.model import TrainableDiffusion


@pytest.fixture(scope="session")
def pictures(tmp_path_factory):
    """A folder of three pictures, 64 x 64, 96 x 64 and 40 x 50 pixels."""
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for number, (width, height) in enumerate(((64, 64), (96, 64), (40, 50))):
        small = Image.fromarray(rng.integers(0, 256, (4, 4, 3), np.uint8))
        small.resize((width, height)).save(folder / f"{number}.png")
    return folder


@pytest.fixture(scope="session")
def untouched(model_folder):
    return TrainableDiffusion.load(str(model_folder))


@pytest.fixture
def model(untouched):
    """The tiny diffusion model, to be changed."""
    return copy.deepcopy(untouched)


@pytest.fixture(scope="session")
def command(model_folder, pictures):
    """command("invert", output, flag, ...) is the command as a list of texts."""
    own = {
        "invert": ("--token", "<new>", "--init", "watercolor", "--accumulation", "1"),
        "dreambooth": ("--prompt", "an image in sks style", "--rate", "1e-4"),
    }
    shared = ("--weights", model_folder, "--device", "cpu", "--size", 64, "--sample-every", 0)

    def make(method, output, *flags, images=pictures):
        words = (method, images, "--output", output, *shared, *own[method], *flags)
        return [str(word) for word in words]

    return make


@pytest.fixture(scope="session")
def run(command):
    """Runs such a command in this process."""

    def execute(*arguments, **keywords):
        main(command(*arguments, **keywords))

    return execute


@pytest.fixture
def fails(command, capsys):
    """The message of such a command, which must end with exit code 2."""

    def execute(*arguments, **keywords):
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            main(command(*arguments, **keywords))
        assert stop.value.code == 2
        err = capsys.readouterr().err
        assert "Traceback" not in err
        return err[err.index("error: ") :]

    return execute


@pytest.fixture(scope="session")
def overfit():
    """overfit(training, steps): the losses of steps on one batch with the same noise."""

    def execute(training, steps):
        for _ in range(steps):
            training.generator.manual_seed(0)
            for source in training.objective.sources:
                source.crops.order = []
            training.advance()
        return training.losses

    return execute
