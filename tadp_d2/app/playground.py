"""Answers to what the page asks: images, prompts, predictions side by side. HTTP is not known here.

What comes from a visitor is checked here: a request is a dict of JSON.
"""

from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tadp_d2.app.image_shelf import LARGEST, ImageShelf
from tadp_d2.app.job_queue import JobQueue, Step
from tadp_d2.app.player import DRAWING, HEAT, Player, Words, data_url, jpeg
from tadp_d2.conditioning.domains import DOMAINS
from tadp_d2.data.images import decode, read_size
from tadp_d2.errors import UserError

# A change of a color channel, of 255, that one can see.
_VISIBLE = 24
_LONGEST_TEXT = 5000
_CHANGED = (230, 0, 120)


class Playground:
    """One or two models, the images, and the queue before the models."""

    def __init__(self, players: Sequence[Player], folder: Path):
        """
        Args:
            folder: for uploads.
        """
        self.players = players
        self.shelf = ImageShelf([player.cfg for player in players], folder)
        self.jobs = JobQueue()

    def page(self) -> str:
        return (files(__package__) / "app.html").read_text("utf-8")

    def setup(self) -> dict[str, Any]:
        """What the page offers."""
        return {
            "models": [
                {
                    "name": Path(player.cfg.MODEL.WEIGHTS).parent.name or "model",
                    "task": player.predictor.task.name,
                    "reads": player.reads,
                    "domain": player.cfg.TEXT.DOMAIN,
                    "modifier": player.cfg.TEXT.MODIFIER or "null",
                    "tokens": player.tokens(),
                }
                for player in self.players
            ],
            "domains": {
                name: {key: modifier.template for key, modifier in domain.modifiers.items()}
                for name, domain in DOMAINS.items()
            },
            "datasets": self.shelf.datasets(),
            "largest": LARGEST,
        }

    def image(self, key: str, side: int) -> bytes:
        """A JPEG of an image."""
        return jpeg(decode(self.shelf.find(key)[0]), max(16, min(side, DRAWING)))

    def read(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """The prompt of a side, as `Player.read`."""
        player, words = self._side(request)
        return player.read(words, "this image")

    def play(self, request: Mapping[str, Any]) -> str:
        """Puts a prediction of each side into the queue; returns its number.

        Raises:
            UserError: the image is gone, or a side's words cannot be read.
        """
        sides = request.get("sides")
        if not isinstance(sides, list) or not 1 <= len(sides) <= 2:
            raise UserError("the request needs one or two sides")
        sides = [self._side(side) for side in sides]
        file, name = self.shelf.find(_text(request, "image"))
        for player, words in sides:
            player.read(words, name)
        kind = (read_size(file), *(player.predictor for player, _ in sides))
        return self.jobs.add(kind, lambda step: self._play(sides, file, name, step))

    def _side(self, request: Any) -> tuple[Player, Words]:
        if not isinstance(request, dict):
            raise UserError("the request needs the words of a side")
        number = request.get("model")
        if type(number) is not int or number not in range(len(self.players)):
            raise UserError(f"there is no model {number!r}")
        return self.players[number], Words(*(_text(request, key) for key in Words._fields))

    def _play(
        self, sides: Sequence[tuple[Player, Words]], file: Path, name: str, step: Step
    ) -> dict[str, Any]:
        pixels = np.asarray(decode(file))
        shown, drawings = zip(
            *(player.play(pixels, words, name, step) for player, words in sides), strict=True
        )
        tasks = {player.predictor.task.name for player, _ in sides}
        changes = _changes(*drawings) if len(drawings) == 2 and len(tasks) == 1 else None
        return {"sides": shown, "changes": changes}


def _changes(first: Image.Image, second: Image.Image) -> dict[str, Any] | None:
    """Where two drawings of an image differ, in color on gray, and the share of such pixels."""
    if first.size != second.size:
        return None
    one, other = (np.asarray(drawing, np.int16) for drawing in (first, second))
    different = abs(one - other).max(axis=2) > _VISIBLE
    gray = np.asarray(first.convert("L").convert("RGB")) // 2 + 96
    colored = np.where(different[..., None], np.uint8(_CHANGED), gray.astype(np.uint8))
    return {"image": data_url(Image.fromarray(colored), HEAT), "share": float(different.mean())}


def _text(request: Mapping[str, Any], key: str) -> str:
    value = request.get(key)
    if not isinstance(value, str) or len(value) > _LONGEST_TEXT:
        raise UserError(f"the request needs {key!r}, a text of at most {_LONGEST_TEXT} characters")
    return value
