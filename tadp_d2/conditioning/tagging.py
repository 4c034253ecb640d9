"""The tagging adapter: learned queries read tags and the image, and are what the UNet reads.

Written from the description in "Harnessing text-to-image diffusion for dense prediction tasks",
sections 3.2 and 3.3; where it is silent, `docs/differences.md` lists what is done here.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from fvcore.common.config import CfgNode
from torch import Tensor, nn
from torch.nn import functional as F

from tadp_d2.conditioning.asymmetric_loss import asymmetric_loss
from tadp_d2.conditioning.caption_prompt import check_modifier, get_modifiers, load_text
from tadp_d2.conditioning.class_embeddings import check_class_embeddings, load_class_embeddings
from tadp_d2.conditioning.conditioner import (
    CONDITIONER_REGISTRY,
    Condition,
    Conditioner,
    get_class_names,
    open_model_of,
    read_text,
)
from tadp_d2.conditioning.domains import SLOT, Modifier
from tadp_d2.conditioning.image_encoder import ImageEncoder
from tadp_d2.conditioning.oracle import read_present
from tadp_d2.data.present_classes import BACKGROUND, name_classes
from tadp_d2.data.tags import SEPARATOR, split_tags
from tadp_d2.diffusion.clip_text import TextEncoder
from tadp_d2.diffusion.clip_tokenizer import find_normalization
from tadp_d2.diffusion.diffusion_model import Context, DiffusionModel
from tadp_d2.diffusion.tokens import expand_tokens
from tadp_d2.errors import Report, UserError, reporting
from tadp_d2.precision import autocast

# Words of a line that is no name of a class or a thing.
_SENTENCE = 5


@CONDITIONER_REGISTRY.register()
class TaggingAdapter(Conditioner):
    """T(c) = MLP(blocks(queries, embeddings of the tags, patches of the image)), B x Q x D.

    In training, a multi-label loss asks the mean of the Q tokens for the classes of the whole
    annotation: its logits are products with fixed class embeddings.
    """

    def __init__(
        self,
        text: TextEncoder,
        image_encoder: ImageEncoder,
        names: Sequence[str],
        class_embeddings: Tensor,
        provenance: Mapping[str, str],
        options: CfgNode,
        modifiers: tuple[Modifier, Modifier],
        errors: Mapping[str, Any],
    ):
        """
        Args:
            names: of the K classes.
            class_embeddings: K x D, of the loss.
            provenance: of the class embeddings.
            options: `MODEL.CONDITIONER.TAGGING`.
            modifiers: around each tag, in training and in testing.
            errors: precision, recall and seed of `name_classes`, for oracle tags.
        """
        super().__init__()
        for modifier in modifiers:
            check_modifier(modifier, text)
        self.text, self.image_encoder = text, image_encoder
        self.names, self.options, self.errors = list(names), options, dict(errors)
        self._provenance = dict(provenance)
        self.train_modifier, self.test_modifier = modifiers
        width, context_width = options.WIDTH, class_embeddings.shape[1]
        self.register_buffer("class_embeddings", class_embeddings, persistent=False)
        self.queries = nn.Parameter(torch.randn(options.QUERIES, width) * 0.02)
        self.read_tags = nn.Sequential(nn.LayerNorm(context_width), nn.Linear(context_width, width))
        self.read_image = nn.Sequential(
            nn.LayerNorm(image_encoder.patch_width), nn.Linear(image_encoder.patch_width, width)
        )
        self.blocks = nn.ModuleList(QueryBlock(width, options.HEADS) for _ in range(options.BLOCKS))
        self.mlp = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, width), nn.GELU(), nn.Linear(width, context_width)
        )
        # Sentence -> embedding: most tags are those of many images.
        self._known: dict[str, Tensor] = {}

    @classmethod
    def from_config(cls, cfg: CfgNode, model: DiffusionModel) -> "TaggingAdapter":
        text = load_text(cfg, model).to(cfg.MODEL.DEVICE)
        oracle = cfg.MODEL.CONDITIONER.ORACLE
        return cls(
            text,
            ImageEncoder.from_config(cfg),
            get_class_names(cfg),
            *load_class_embeddings(cfg, model, text),
            cfg.MODEL.CONDITIONER.TAGGING,
            get_modifiers(cfg),
            {"precision": oracle.PRECISION, "recall": oracle.RECALL, "seed": cfg.SEED},
        )

    @classmethod
    def count_tokens(cls, cfg: CfgNode, model: DiffusionModel) -> int:
        return cfg.MODEL.CONDITIONER.TAGGING.QUERIES

    @classmethod
    def needed(cls, cfg: CfgNode, training: bool) -> frozenset[str]:
        options = cfg.MODEL.CONDITIONER.TAGGING
        needed = {"image"}
        if options.TAGS == "captions":
            needed.add("caption")
        if options.TAGS == "oracle" or (training and options.LOSS_WEIGHT):
            needed.add("present")
        return frozenset(needed)

    @classmethod
    def predicted_tags(cls, cfg: CfgNode) -> list[str]:
        return get_class_names(cfg) if cfg.MODEL.CONDITIONER.TAGGING.LOSS_WEIGHT else []

    @classmethod
    def check_config(cls, cfg: CfgNode) -> None:
        options = cfg.MODEL.CONDITIONER.TAGGING
        if options.WIDTH % options.HEADS:
            raise UserError(
                f"MODEL.CONDITIONER.TAGGING.WIDTH is {options.WIDTH}: expected a multiple of "
                f"HEADS, {options.HEADS}"
            )
        if options.TAGS == "own" and not options.LOSS_WEIGHT:
            raise UserError(
                "MODEL.CONDITIONER.TAGGING.TAGS is 'own' and LOSS_WEIGHT is 0: without the "
                "multi-label loss it does not learn which classes are there"
            )
        check_class_embeddings(cfg)
        get_modifiers(cfg)
        find_normalization(cfg.TEXT.NORMALIZATION)

    @classmethod
    def check_entries(
        cls, cfg: CfgNode, entries: Iterable[Mapping[str, Any]], training: bool, report: Report
    ) -> list[str]:
        """Classes that the data do not have, tags that cannot be read, a file without any."""
        options, entries = cfg.MODEL.CONDITIONER.TAGGING, list(entries)
        # What entries lack is reported already.
        if training and options.LOSS_WEIGHT and any("present" in entry for entry in entries):
            vocabulary = next(e["present"].vocabulary for e in entries if "present" in e)
            for name in sorted(set(cfg.MODEL.CONDITIONER.CLASS_NAMES) - set(vocabulary)):
                report(
                    UserError(
                        f"MODEL.CONDITIONER.CLASS_NAMES has {name!r}, which is no class of the "
                        "data: the multi-label loss would teach that no image shows it; expected "
                        f"some of {', '.join(vocabulary)}, or TAGGING.LOSS_WEIGHT 0"
                    )
                )
        if options.TAGS != "captions":
            return []
        text = load_text(cfg, open_model_of(cfg))
        modifier = get_modifiers(cfg)[0 if training else 1]
        # Tag -> the first image that has it.
        found: dict[str, Mapping[str, Any]] = {}
        tagged = [entry for entry in entries if "caption" in entry]
        for entry in tagged:
            for tag in split_tags(entry["caption"]):
                found.setdefault(tag, entry)
        for tag, entry in found.items():
            with reporting(report):
                _check_length(tag, modifier, text, entry)
        if tagged and not found:
            report(
                UserError(
                    "no image has a tag: TEXT.CAPTION_DIR must name the folder of the tags' "
                    "files, which tadp-d2 caption --source tags makes"
                )
            )
            return []
        _check_for_captions([entry["caption"] for entry in tagged], report)
        without = sum(not split_tags(entry["caption"]) for entry in tagged)
        return [f"{without} of {len(tagged)} images have no tag"] if without else []

    def forward(
        self, inputs: Sequence[Mapping[str, Any]], images: Tensor, latents: Tensor
    ) -> Condition:
        patches = self.read_image(self.image_encoder(inputs).patches)
        finds_own = self.options.TAGS == "own"
        tags = [self.names if finds_own else self.tags(own) for own in inputs]
        tokens = self._read(tags, patches)
        if not self.options.LOSS_WEIGHT:
            return Condition(Context(tokens))
        scores = self.score_classes(tokens)
        if finds_own:
            # A second look, with what the first one found.
            tokens = self._read([self._choose(own) for own in scores], patches)
        if not self.training:
            return Condition(Context(tokens), outputs={"tag_scores": scores})
        loss = self.options.LOSS_WEIGHT * self._loss(scores, inputs)
        return Condition(Context(tokens), {"loss_tags": loss})

    def _read(self, tags: Sequence[Sequence[str]], patches: Tensor) -> Tensor:
        """T(c), B x Q x D, of B images: of their tags, and of their patches, B x n x C."""
        embeddings, absent = self._embed_tags(tags)
        embeddings = self.read_tags(embeddings)
        hidden = self.queries.expand(len(tags), -1, -1)
        for block in self.blocks:
            hidden = block(hidden, embeddings, absent, patches)
        return self.mlp(hidden)

    def _choose(self, scores: Tensor) -> list[str]:
        """The classes of an image whose probability reaches the threshold; of K scores."""
        chosen = (scores.sigmoid() >= self.options.THRESHOLD).tolist()
        pairs = zip(self.names, chosen, strict=True)
        return [name for name, is_there in pairs if is_there and name != BACKGROUND]

    def tags(self, inputs: Mapping[str, Any]) -> list[str]:
        """The tags of an input, without the modifier; none for an image without any.

        Those that it finds itself are not among them.

        Raises:
            UserError: the input lacks what they are made of.
        """
        if self.options.TAGS == "classes":
            return self.names
        if self.options.TAGS == "captions":
            return split_tags(read_text(inputs, "caption"))
        present, image_id = read_present(inputs), str(inputs["image_id"])
        return name_classes(present.names(), present.vocabulary, image_id, **self.errors)

    def score_classes(self, tokens: Tensor) -> Tensor:
        """Logits that the classes are present, B x K, of B x Q x D (equation 7).

        CLIP's embeddings have norms of 20 to 30, with which the sigmoid is 0 or 1 from the start:
        with `NORMALIZE` the products are cosines, over `TEMPERATURE`.
        """
        means, classes = tokens.float().mean(dim=1), self.class_embeddings
        if self.options.NORMALIZE:
            means, classes = F.normalize(means, dim=-1), F.normalize(classes, dim=-1)
        with autocast(means.device.type, "fp32"):
            return means @ classes.T / self.options.TEMPERATURE

    def _loss(self, logits: Tensor, inputs: Sequence[Mapping[str, Any]]) -> Tensor:
        """Summed over the classes, as the asymmetric loss is meant, and averaged over images."""
        targets = torch.zeros_like(logits)
        index = {name: place for place, name in enumerate(self.names)}
        for row, own in zip(targets, inputs, strict=True):
            for name in read_present(own).names():
                if name in index and name != BACKGROUND:
                    row[index[name]] = 1
        options = self.options
        gammas = options.GAMMA_NEGATIVE, options.GAMMA_POSITIVE
        terms = asymmetric_loss(logits, targets, *gammas, options.CLIP, detach_focus=True)
        counted = torch.tensor([name != BACKGROUND for name in self.names], device=logits.device)
        return (terms * counted).sum() / len(inputs)

    @torch.no_grad()
    def _embed_tags(self, tags: Sequence[Sequence[str]]) -> tuple[Tensor, Tensor]:
        """End-of-text embeddings of tags, B x T x D, and where there is none, B x T, True."""
        # Who has no tag has the empty one: attention to nothing is not a number.
        rows = [torch.stack([self._embed(tag) for tag in own or [""]]) for own in tags]
        padded = nn.utils.rnn.pad_sequence(rows, batch_first=True)
        lengths = torch.tensor([len(row) for row in rows], device=padded.device)
        places = torch.arange(padded.shape[1], device=padded.device)
        return padded, places >= lengths.unsqueeze(1)

    def _embed(self, tag: str) -> Tensor:
        prompt = _prompt(tag, self._modifier, self.text)
        if prompt not in self._known:
            _check_length(tag, self._modifier, self.text)
            self._known[prompt] = self.text.embed_ends([prompt])[0].cpu()
        return self._known[prompt].to(self.queries.device)

    @property
    def _modifier(self) -> Modifier:
        return self.train_modifier if self.training else self.test_modifier

    def provenance(self) -> dict[str, Any]:
        return {
            **self.text.provenance,
            "tokens": self.text.token_fingerprints,
            **self.image_encoder.provenance,
            "class_names": self.names,
            **self._provenance,
            # Which the shapes of the weights do not tell.
            "conditioner_options": {"heads": self.options.HEADS},
            "tags": self.options.TAGS,
            "tag_loss": self.options.LOSS_WEIGHT > 0,
        }

    def prompt(self, inputs: Mapping[str, Any]) -> str:
        if self.options.TAGS == "own":
            return "the classes that it finds in the image"
        tags = self.tags(inputs)
        return ", ".join(_prompt(tag, self._modifier, self.text) for tag in tags) or "no tags"


def _check_for_captions(lines: Sequence[str], report: Report) -> None:
    """That these are tags: of captions each would be taken as one tag."""
    sentences = [line for line in lines if len(line.split()) >= _SENTENCE]
    if 2 * len(sentences) > len(lines) and not any(SEPARATOR in line for line in lines):
        report(
            UserError(
                f"{len(sentences)} of {len(lines)} images have five words or more in a single tag, "
                f"and none has a {SEPARATOR} between tags: these seem to be captions, such as "
                f"{sentences[0][:100]!r}; TEXT.CAPTION_DIR must name the folder of the tags' files"
            )
        )


def _prompt(tag: str, modifier: Modifier, text: TextEncoder) -> str:
    """A tag in the words of a modifier."""
    template = expand_tokens(modifier.template, text.tokenizer)
    return template.replace(SLOT, text.normalize(tag.replace("_", " "))).strip()


def _check_length(
    tag: str, modifier: Modifier, text: TextEncoder, entry: Mapping[str, Any] | None = None
) -> None:
    """
    Raises:
        UserError: a tag is longer than what is read; of it nothing is cut, as of a caption.
    """
    length = len(text.tokenizer(_prompt(tag, modifier, text), verbose=False).input_ids)
    if length > text.length:
        where = f" of image {entry.get('image_id', '?')}" if entry else ""
        raise UserError(
            f"the tag{where} {tag[:100]!r} has {length} tokens under its modifier, and the text "
            f"encoder reads {text.length}: a {SEPARATOR} separates tags, as RAM writes them"
        )


class QueryBlock(nn.Module):
    """Queries attend to themselves, to the tags and to the image; then a layer of two."""

    def __init__(self, width: int, heads: int):
        """
        Args:
            width: of the queries, the tags and the image; a multiple of `heads`.
        """
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(4))
        self.attend_queries, self.attend_tags, self.attend_image = (
            nn.MultiheadAttention(width, heads, batch_first=True) for _ in range(3)
        )
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, hidden: Tensor, tags: Tensor, absent: Tensor, patches: Tensor) -> Tensor:
        """
        Args:
            hidden: B x Q x C.
            tags: B x T x C.
            absent: B x T, True where there is no tag.
            patches: B x n x C.
        """
        for norm, attention, source, mask in (
            (self.norms[0], self.attend_queries, None, None),
            (self.norms[1], self.attend_tags, tags, absent),
            (self.norms[2], self.attend_image, patches, None),
        ):
            query = norm(hidden)
            source = query if source is None else source
            options = {"key_padding_mask": mask, "need_weights": False}
            hidden = hidden + attention(query, source, source, **options)[0]
        return hidden + self.mlp(self.norms[3](hidden))
