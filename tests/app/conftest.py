"""The page at work, over a segmentor of random weights: all pixels have a class."""

import threading
import time

import pytest

from tadp_d2.app.local_server import LocalServer
from tadp_d2.app.player import Player
from tadp_d2.app.playground import Playground

from ..inference.conftest import detector, segmentor  # noqa: F401


@pytest.fixture(scope="session")
def make_player():
    """make_player(folder of a run, "KEY", value, ...)"""
    from tadp_d2.config.load import load_config

    def make(folder, *opts):
        config, weights = str(folder / "config.yaml"), str(folder / "model_final.pth")
        cfg = load_config(config, overrides=["MODEL.WEIGHTS", weights, *opts])
        return Player(cfg, [f"--config-file={config}", f"--weights={weights}"], opts)

    return make


@pytest.fixture(scope="session")
def player(segmentor, make_player):  # noqa: F811
    return make_player(segmentor)


@pytest.fixture
def server(player, tmp_path):
    """A running server, at any free port."""
    with LocalServer(0) as server:
        server.playground = Playground([player], tmp_path)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()
        server.playground.jobs.close()


@pytest.fixture
def wait(browser):
    """wait(expression) until the page finds it true."""

    def until(expression):
        for _ in range(1200):
            if browser.run(f"!!({expression})"):
                return
            time.sleep(0.05)
        raise AssertionError(f"{expression}: {browser.run('document.body.innerText')}")

    return until
