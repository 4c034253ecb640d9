"""Pictures to learn from, and runs of a few steps on the tiny diffusion model."""

import copy

import pytest

from tadp_d2.cli import main
from tadp_d2.personalization.model import TrainableDiffusion


@pytest.fixture(scope="session")
def untouched(model_folder):
    return TrainableDiffusion.load(str(model_folder))


@pytest.fixture
def model(untouched):
    """The tiny diffusion model, to be changed."""
    return copy.deepcopy(untouched)


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
