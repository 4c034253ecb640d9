"""Tags by a model that compares images with texts: any CLIP or SigLIP of transformers.

It looks for the names of a list. The tags of an image depend on the image, the list and the
settings, not on its neighbors in a batch but for rounding.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
import transformers
from PIL import Image
from torch import Tensor, nn
from transformers import AutoImageProcessor, AutoModel, AutoTokenizer

from tadp_d2.captioning.blip2 import model_identity
from tadp_d2.captioning.sets import CaptionImage
from tadp_d2.captioning.sources import Source, names_fingerprint, provenance
from tadp_d2.conditioning.templates import SLOT
from tadp_d2.data.present_classes import BACKGROUND
from tadp_d2.data.tags import join_tags
from tadp_d2.device import find_device
from tadp_d2.diffusion.model_folder import WEIGHTS, Format, find_folder, loading, or_shards
from tadp_d2.diffusion.model_part import check_complete
from tadp_d2.errors import UserError
from tadp_d2.precision import DTYPES

DEFAULT_MODEL = "openai/clip-vit-large-patch14"
DEFAULT_TEMPLATE = "a photo of a {}."
TAGGER = Format(
    "CLIP or SigLIP model",
    (
        ("config.json",),
        ("preprocessor_config.json", "processor_config.json"),
        ("tokenizer.json", "vocab.json", "tokenizer.model", "spiece.model"),
        or_shards(*WEIGHTS),
    ),
    ("*.json", "*.txt", "*.model", "model*.safetensors"),
    "--model must name a folder in transformers' format (config.json, a processor, a tokenizer, "
    "model*.safetensors) or a hub id",
)
# Names that are read at once.
_CHUNK = 256


class ZeroShotTagger:
    """Images -> probabilities of names.

    A model that was trained on pairs one by one (SigLIP) gives each name a probability of its own;
    one that was trained to choose among texts (CLIP) divides 1 between the names.
    """

    def __init__(self, model: nn.Module, tokenizer, processor, sentences: Sequence[str]):
        """
        Args:
            model, tokenizer, processor: of transformers.
            sentences: one for each of the K names.

        Raises:
            UserError: a sentence is longer than the model reads, or it has no size for images.
        """
        size = getattr(model.config.vision_config, "image_size", None)
        if size is None:
            raise UserError(
                f"{type(model).__name__} takes images of any size, which is not supported: use a "
                "CLIP or SigLIP of a fixed size"
            )
        self.model = model.eval().requires_grad_(False)
        self.tokenizer, self.processor = tokenizer, processor
        self.size = size
        self._first = self._tokens(sentences[:1])
        chunks = [sentences[i : i + _CHUNK] for i in range(0, len(sentences), _CHUNK)]
        blank = self._pixels([Image.new("RGB", (self.size, self.size))])
        with torch.inference_mode():
            parts = [
                self.model(input_ids=self._tokens(chunk), pixel_values=blank).text_embeds
                for chunk in chunks
            ]
        self.names = torch.cat(parts).float()

    @classmethod
    def load(
        cls, folder: Path, sentences: Sequence[str], dtype: str, device: torch.device
    ) -> "ZeroShotTagger":
        """Loads a model from a folder.

        Raises:
            UserError: it is damaged, or compares no images with texts.
        """
        offline = {"local_files_only": True, "trust_remote_code": False}
        with loading(folder):
            processor = AutoImageProcessor.from_pretrained(folder, **offline)
            tokenizer = AutoTokenizer.from_pretrained(folder, **offline)
            model, report = AutoModel.from_pretrained(
                folder, dtype=DTYPES[dtype], output_loading_info=True, **offline
            )
        check_complete(folder, report)
        if not hasattr(model, "logit_scale"):
            raise UserError(
                f"{folder}: {type(model).__name__} does not compare images with texts; use CLIP or "
                "SigLIP"
            )
        return cls(model.to(device), tokenizer, processor, sentences)

    @torch.inference_mode()
    def probabilities(self, images: Sequence[Image.Image]) -> Tensor:
        """B x K, of RGB images of any sizes, on the CPU.

        An image is squeezed to the model's square, so that all of it is seen.

        Raises:
            UserError: the images do not fit into the device's memory together.
        """
        try:
            pixels = self._pixels(images)
            found = self.model(input_ids=self._first, pixel_values=pixels).image_embeds.float()
        except torch.OutOfMemoryError:
            raise UserError(
                f"{len(images)} images at once do not fit into the memory of {self.model.device}: "
                "use a smaller --batch-size, or --dtype bf16"
            ) from None
        logits = found @ self.names.T * self.model.logit_scale.float().exp()
        bias = getattr(self.model, "logit_bias", None)
        scores = logits.softmax(dim=1) if bias is None else (logits + bias.float()).sigmoid()
        return scores.cpu()

    def _pixels(self, images: Sequence[Image.Image]) -> Tensor:
        square = {"height": self.size, "width": self.size}
        options = {"size": square, "do_center_crop": False, "return_tensors": "pt"}
        pixels = [self.processor(images=image, **options).pixel_values for image in images]
        return torch.cat(pixels).to(self.model.device, self.model.dtype)

    def _tokens(self, sentences: Sequence[str]) -> Tensor:
        length = self.model.config.text_config.max_position_embeddings
        # Padded as SigLIP was trained; CLIP does not look at what follows the end.
        tokens = self.tokenizer(list(sentences), padding="max_length", max_length=length)
        for ids, sentence in zip(tokens.input_ids, sentences, strict=True):
            if len(ids) > length:
                raise UserError(
                    f"{sentence!r} has {len(ids)} tokens, and the model reads {length}: shorten "
                    "the name or --template"
                )
        return torch.tensor(tokens.input_ids, device=self.model.device)


def tags(
    names: Sequence[str],
    model: str = DEFAULT_MODEL,
    revision: str = "",
    device: str = "",
    dtype: str = "fp32",
    template: str = DEFAULT_TEMPLATE,
    threshold: float | None = None,
    top_k: int | None = None,
) -> Source:
    """The names that a model finds in an image, likeliest first, equally likely ones in order.

    The model is found now, and loaded for the first batch.

    Args:
        names: that are looked for; "background" is not.
        model: a folder, or the id of a model on the hub.
        revision: branch, tag or commit of the hub's model; empty for its main branch.
        device: such as cpu or cuda:1; empty for a GPU if there is one.
        dtype: a key of `DTYPES`.
        template: a sentence with `SLOT` for a name.
        threshold: names of that probability or a higher one are tags; None for `top_k`.
        top_k: so many names are tags; None for `threshold`.

    Raises:
        UserError: the model is missing or incomplete, or a setting is wrong.
    """
    names = [name for name in names if name != BACKGROUND]
    if not names:
        raise UserError("there is nothing to look for: --names must name a file with names")
    if (threshold is None) == (top_k is None):
        raise UserError("--source tags needs --threshold or --top-k, and not both")
    if threshold is not None and not 0 <= threshold <= 1:
        raise UserError(f"--threshold {threshold}: expected a probability, 0 to 1")
    if top_k is not None and not 1 <= top_k <= len(names):
        raise UserError(f"--top-k {top_k}: expected 1 to {len(names)}, the number of names")
    if template.count(SLOT) != 1:
        raise UserError(f"--template {template!r}: expected one {SLOT}, the place of the name")
    torch_device = find_device(device)
    folder = find_folder(TAGGER, model, revision)
    sentences = [template.replace(SLOT, name.replace("_", " ")) for name in names]
    tagger: list[ZeroShotTagger] = []

    def texts(_: Sequence[CaptionImage], images: Sequence[Image.Image]) -> list[str]:
        if not tagger:
            tagger.append(ZeroShotTagger.load(folder, sentences, dtype, torch_device))
        found = tagger[0].probabilities(images)
        order = found.argsort(dim=1, descending=True, stable=True)
        kept = [
            [int(i) for i in own if threshold is None or row[i] >= threshold][:top_k]
            for row, own in zip(found, order, strict=True)
        ]
        return [join_tags(names[i] for i in own) for own in kept]

    made_by = provenance(
        "tags",
        **model_identity(model, folder),
        names=len(names),
        names_sha256=names_fingerprint(names),
        template=template,
        threshold=threshold,
        top_k=top_k,
        dtype=dtype,
        transformers=transformers.__version__,
    )
    return Source(made_by, texts, needs_pictures=True)
