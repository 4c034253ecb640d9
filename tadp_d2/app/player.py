"""A trained model that stays loaded while its words change, and what a page shows of it."""

import base64
import contextlib
import copy
import io
import shlex
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from detectron2.config import CfgNode
from PIL import Image

from tadp_d2.conditioning.caption_prompt import CaptionPrompt, check_modifier, get_modifiers
from tadp_d2.conditioning.conditioner import count_context_tokens
from tadp_d2.conditioning.domains import SLOT, Modifier
from tadp_d2.data.loader import needed_texts
from tadp_d2.diffusion.prompt_words import find_words
from tadp_d2.diffusion.tokens import expand_tokens
from tadp_d2.errors import UserError
from tadp_d2.inference.predictor import Predictor
from tadp_d2.inference.word_maps import MEAN, AttentionProbe, make_prompts
from tadp_d2.modeling.backbone import find_diffusion_backbone
from tadp_d2.modeling.conditioned import find_conditioner
from tadp_d2.visualization.attention_sheet import draw_heat

# Longest sides in pixels of what a page shows.
DRAWING, HEAT = 1600, 640


class Words(NamedTuple):
    """What a model reads besides an image.

    Attributes:
        text: caption or expression.
        domain: whose modifiers are meant.
        modifier: a name, or a template.
    """

    text: str
    domain: str
    modifier: str


class Player:
    """One trained model.

    Attributes:
        reads: "caption", "expression", or "" for a model that reads neither.
    """

    def __init__(self, cfg: CfgNode, arguments: Sequence[str], opts: Sequence[str] = ()):
        """
        Args:
            cfg: with a checkpoint in MODEL.WEIGHTS.
            arguments: by which a command names the model, such as --weights FILE.
            opts: the command's further KEY VALUE pairs.

        Raises:
            UserError: as `Predictor`, or the model reads what nobody can type.
        """
        needed = needed_texts(cfg)
        if needed - {"caption", "expression"}:
            raise UserError(
                f"{cfg.MODEL.WEIGHTS}: its conditioner {cfg.MODEL.CONDITIONER.NAME} reads "
                f"{', '.join(sorted(needed))} of every image, which a page cannot ask for"
            )
        self.cfg = cfg
        self.predictor = Predictor(cfg)
        self.reads = self.predictor.reads if needed else ""
        self._arguments, self._opts = list(arguments), list(opts)
        self._conditioner = find_conditioner(self.predictor.model)
        parts = self._conditioner.modules()
        self._speaker = next((p for p in parts if isinstance(p, CaptionPrompt)), None)
        if self._speaker:
            # Prompts are read while the model is at work: this copy shares nothing that changes.
            frozen = self._speaker.text.text_encoder
            self._reader = copy.deepcopy(self._speaker, {id(frozen): frozen})
        self._reading = threading.Lock()
        self._length = count_context_tokens(cfg)
        maps = cfg.MODEL.DIFFUSION.ATTENTION_MAPS.LEVELS
        backbone = find_diffusion_backbone(self.predictor.model)
        self._probe = AttentionProbe(cfg, backbone) if self._speaker and maps else None

    def tokens(self) -> list[str]:
        """The learned tokens that a modifier may use."""
        return sorted(self._speaker.text.token_fingerprints) if self._speaker else []

    def read(self, words: Words, image: str) -> dict[str, Any]:
        """The prompt as the model reads it.

        Args:
            image: for messages, what the image is called.

        Returns:
            "prompt", its "words", and where it is a text "tokens" that are read, "wanted" that the
            uncut prompt has, and the "limit".

        Raises:
            UserError: the modifier is wrong, or the text cannot be read.
        """
        inputs = {self.predictor.reads: words.text, "file_name": image}
        if not self._speaker:
            return {"prompt": self._conditioner.prompt(inputs), "words": []}
        modifier = self._modifier(words)
        with self._reading:
            text = self._reader.text
            check_modifier(modifier, text)
            self._reader.test_modifier = modifier
            prompt = self._reader.prompt(inputs)
            caption = " ".join(text.normalize(self._reader.caption(inputs)).split())
            whole = expand_tokens(modifier.template, text.tokenizer).replace(SLOT, caption)
            tokens, wanted = (
                len(text.tokenizer(one.strip(), verbose=False).input_ids) for one in (prompt, whole)
            )
            found = [word.text for word in find_words(prompt, text.tokenizer)]
        numbers = {"tokens": tokens, "wanted": wanted, "limit": self._length}
        return {"prompt": prompt, "words": found, **numbers}

    def _modifier(self, words: Words) -> Modifier:
        cfg = self.cfg.clone()
        cfg.defrost()
        cfg.TEXT.DOMAIN, cfg.TEXT.MODIFIER = words.domain, words.modifier
        return get_modifiers(cfg)[1]

    def play(
        self, pixels: np.ndarray, words: Words, image: str, step: Callable[[], None]
    ) -> tuple[dict[str, Any], Image.Image]:
        """What `read` returns, with the prediction and the map of each word; and the drawing.

        Args:
            pixels: H x W x 3, uint8 RGB.
            image: its file.
            step: is called at each layer; what it raises ends the work.
        """
        reading = self.read(words, image)
        if self._speaker:
            self._speaker.test_modifier = self._modifier(words)
        with self._watched(step):
            output = self.predictor(pixels, words.text)
            maps = self._look(pixels, words.text) if reading["words"] else []
        task = self.predictor.task
        drawing = task.draw_large(pixels, output)
        shown = {"drawing": data_url(drawing, DRAWING), "summary": task.summary(output)}
        return {**reading, **shown, "maps": maps, "command": self.command(words, image)}, drawing

    @contextlib.contextmanager
    def _watched(self, step: Callable[[], None]) -> Iterator[None]:
        """Calls `step` before every layer."""
        hooks = [
            module.register_forward_pre_hook(lambda *_: step())
            for module in self.predictor.model.modules()
        ]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def _look(self, pixels: np.ndarray, text: str) -> list[dict[str, Any]]:
        """For each word its map over the image, "heat", and the map's range."""
        if not self._probe:
            return []
        reads = self.predictor.reads
        prompt = make_prompts(self._conditioner, text, reads=reads)[reads]
        small = Image.fromarray(pixels)
        small.thumbnail((HEAT, HEAT))
        return [
            {
                "heat": data_url(draw_heat(small, heat), HEAT),
                "least": float(heat.min()),
                "most": float(heat.max()),
            }
            for heat in self._probe(pixels, prompt)[MEAN].numpy()
        ]

    def command(self, words: Words, image: str) -> str:
        """The command line that makes the same prediction."""
        # An argument that begins with a dash would be taken for an option.
        parts = ["tadp-d2", "predict", f"./{image}" if image.startswith("-") else image]
        parts += [*self._arguments, *([f"--{self.reads}={words.text}"] if self.reads else [])]
        # The last value of a key counts.
        parts += ["--opts", *self._opts, "TEXT.DOMAIN", words.domain]
        return shlex.join([*parts, "TEXT.MODIFIER", words.modifier])


def data_url(image: Image.Image, side: int) -> str:
    """A JPEG whose sides are at most `side` pixels."""
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg(image, side)).decode()}"


def jpeg(image: Image.Image, side: int) -> bytes:
    image, file = image.copy(), io.BytesIO()
    image.thumbnail((side, side))
    image.save(file, "JPEG", quality=88)
    return file.getvalue()
