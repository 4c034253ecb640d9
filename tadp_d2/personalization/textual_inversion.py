"""Textual inversion: everything stays as it is but the vectors of one new word."""

from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPTextModel, CLIPTokenizer

from tadp_d2.conditioning.templates import SAMPLES, SLOT, TEMPLATES
from tadp_d2.diffusion.tokens import add_token
from tadp_d2.errors import UserError
from tadp_d2.files import replacing
from tadp_d2.frozen import fingerprint
from tadp_d2.personalization.latents import LatentSource
from tadp_d2.personalization.model import TrainableDiffusion
from tadp_d2.personalization.objective import Objective, denoising_loss, draw_noise
from tadp_d2.personalization.settings import InversionSettings

FILE = "learned_embeds.safetensors"


class LearnedRows(nn.Module):
    """A frozen embedding of which some rows are trained, as a parameter of their own."""

    def __init__(self, embedding: nn.Embedding, ids: list[int]):
        """
        Args:
            ids: the rows to train.
        """
        super().__init__()
        # Both from nn.Embedding, so that whoever asks for the table's shape gets it.
        self.weight = embedding.weight.requires_grad_(False)
        self.rows = nn.Parameter(embedding.weight.data[ids].clone())
        places = torch.full((len(embedding.weight),), -1, device=embedding.weight.device)
        places[ids] = torch.arange(len(ids), device=places.device)
        self.register_buffer("places", places, persistent=False)

    def forward(self, ids: Tensor) -> Tensor:
        """ids of any shape -> vectors, ... x D."""
        places = self.places[ids]
        learned = F.embedding(places.clamp(min=0), self.rows)
        return torch.where((places >= 0)[..., None], learned, F.embedding(ids, self.weight))


class TextualInversion(Objective):
    """The denoising loss under sentences with the new word, in the word's vectors."""

    needs = ("text_encoder", "tokenizer", "unet")

    def __init__(
        self, model: TrainableDiffusion, source: LatentSource, settings: InversionSettings
    ):
        """Adds the token to the model's tokenizer and text encoder.

        Raises:
            UserError: the token or the initial word cannot be used.
        """
        super().__init__(model, source, settings)
        self.token = settings.token
        self.embedding = add_learnable_token(
            settings.token, settings.init, settings.vectors, model.tokenizer, model.text_encoder
        )
        self.parameters = [self.embedding.rows]
        self.templates = TEMPLATES[settings.learn]
        self.sample_prompts = tuple(t.replace(SLOT, self.token) for t in SAMPLES[settings.learn])
        # The longest sentences show at once whether there is room for so many vectors.
        with torch.no_grad():
            model.context([*map(self._prompt, self.templates), *self.sample_prompts])

    def loss(self, generator: torch.Generator) -> Tensor:
        latents = self.sources[0].draw(self.settings.batch, generator)
        chosen = torch.randint(len(self.templates), (len(latents),), generator=generator)
        context = self.model.context([self._prompt(self.templates[i]) for i in chosen.tolist()])
        noise, times = draw_noise(latents, self.model.scheduler, generator)
        return denoising_loss(self.model, latents, context, noise, times)

    def watched_prompt(self) -> str:
        return self._prompt(self.templates[0])

    def export(self, folder: Path) -> dict[str, str]:
        """Writes `learned_embeds.safetensors`: the token and its vectors, n x D."""
        vectors = self.embedding.rows.detach().cpu().float().contiguous()
        with replacing(folder / FILE) as temporary:
            safetensors.torch.save_file({self.token: vectors}, temporary, {"format": "pt"})
        return {self.token: fingerprint(vectors)}

    def _prompt(self, template: str) -> str:
        return template.replace(SLOT, self.token)


def add_learnable_token(
    token: str,
    init: str,
    vectors: int,
    tokenizer: CLIPTokenizer,
    text_encoder: CLIPTextModel,
) -> LearnedRows:
    """Teaches a token of n vectors, all equal to that of a known word, in place.

    Returns:
        The text encoder's new input embedding, whose rows of the token are trainable.

    Raises:
        UserError: the token exists, holds a space or a capital, or stands in other words; or the
            known word is none, or several tokens.
    """
    # CLIP's tokenizer turns all it reads into lower case.
    if not token or token != "".join(token.lower().split()):
        raise UserError(
            f"--token {token!r}: expected one word in lower case, without spaces, such as "
            "<watercolor>"
        )
    start = _row_of_word(init, tokenizer)
    embedding = text_encoder.get_input_embeddings()
    # Not here, but in diffusers, whose tokens are found inside of words.
    probes = [init, *(t for table in TEMPLATES.values() for t in table)]
    parted = next((probe for probe in probes if token in probe), None)
    if parted:
        raise UserError(
            f"--token {token!r} would take other words apart, such as one of {parted!r}: put it "
            "into angle brackets"
        )
    initial = embedding.weight.data[start].repeat(vectors, 1)
    add_token(token, initial, tokenizer, text_encoder)
    names = [token, *(f"{token}_{i}" for i in range(1, vectors))]
    learned = LearnedRows(
        text_encoder.get_input_embeddings(), tokenizer.convert_tokens_to_ids(names)
    )
    text_encoder.set_input_embeddings(learned)
    return learned


def _row_of_word(word: str, tokenizer: CLIPTokenizer) -> int:
    ids = tokenizer(word, add_special_tokens=False).input_ids
    if len(ids) != 1:
        pieces = " ".join(tokenizer.convert_ids_to_tokens(ids)) or "no token"
        raise UserError(
            f"--init {word!r}: expected a word that is one token, but the tokenizer reads {pieces}"
        )
    return ids[0]
