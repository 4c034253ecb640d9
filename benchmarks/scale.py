"""Hours and memory of the paper's schedules on GPUs, computed: no number here was measured.

Floating-point operations are counted in Stable Diffusion 1.5's shapes, without weights; schedules
are those of the configs. What a card does of its peak, and how fast its memory and its links are,
are arguments: give what you measured on yours.

    python benchmarks/scale.py
    python benchmarks/scale.py --card mine 165 83 1008 32 --utilisation 0.3 0.3
"""

import argparse
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from backbone import operations
from detectron2.config import CfgNode
from detectron2.modeling import build_proposal_generator, build_roi_heads, build_sem_seg_head
from full_size import make_text_encoder, make_unet, make_vae
from torch import Tensor, nn
from transformers import Blip2Config, Blip2ForConditionalGeneration, OPTConfig

from tadp_d2.config.load import load_config
from tadp_d2.diffusion.diffusion_model import Context
from tadp_d2.diffusion.stable_diffusion import LatentEncoder
from tadp_d2.diffusion.unet_features import UNetFeatures
from tadp_d2.modeling.backbone import DiffusionBackbone, FullPrecisionFPN
from tadp_d2.personalization.settings import resolve

GIB = 2**30
# Data sheets: peaks in bf16 without sparsity and in fp32, memory, NVLink in one direction.
CARDS = (("A100 80 GB", 312.0, 19.5, 2039.0, 300.0), ("H100 SXM", 989.0, 67.0, 3350.0, 450.0))
# Images: VOC 2007 and 2012 trainval, VOC 2007 test, a target; Cityscapes train, val, night val.
VOC, VOC_TEST, TARGET = 16_551, 4_952, 1_000
CITY, CITY_TEST, NIGHT = 2_975, 500, 50
# Tokens of a caption: between the 20 and the 77 that TADP allows.
CAPTION = 40
# Numbers of 4 bytes that AdamW moves for a weight: four are read, three are written.
ADAMW = 7
GPUS = 8


@dataclass(frozen=True)
class Card:
    """An accelerator: name, peaks (TFLOP/s), memory and link (GB/s)."""

    name: str
    bf16: float
    fp32: float
    memory: float
    link: float


@dataclass(frozen=True)
class Work:
    """A stage of an experiment.

    Attributes:
        count: images or steps.
        operations: floating-point operations of each.
        traffic: bytes of memory that each moves besides, where that is what takes the time.
        gradients: bytes that processes exchange after each.
        fp32: those of the operations that are computed in full precision; the others are in bf16.
    """

    name: str
    count: int
    operations: float
    traffic: float = 0.0
    gradients: float = 0.0
    fp32: float = 0.0

    def hours(self, card: Card, utilisation: float, gpus: int = 1) -> float:
        """The same images in all, shared among `gpus`; the exchange is not hidden."""
        seconds = (self.operations - self.fp32) / (card.bf16 * 1e12 * utilisation)
        seconds += self.fp32 / (card.fp32 * 1e12 * utilisation)
        seconds += self.traffic / (card.memory * 1e9)
        # A ring: each byte goes out twice, but for the own part.
        seconds += 2 * (gpus - 1) / gpus * self.gradients / (card.link * 1e9)
        return self.count * seconds / gpus / 3600


def empty(*shape: int) -> Tensor:
    return torch.empty(*shape, device="meta")


def forward(run: Callable[[], Sequence[Tensor]]) -> int:
    with torch.no_grad():
        return operations(run)


def both(run: Callable[[], Sequence[Tensor]]) -> int:
    """Forward and backward."""
    return operations(lambda: sum(out.sum() for out in run()).backward())


class NoLatentEncoder(nn.Module):
    """Latents from nothing: the VAE is counted by itself."""

    def forward(self, images: Tensor) -> Tensor:
        return images.new_empty(len(images), 4, images.shape[2] // 8, images.shape[3] // 8)


class Model:
    """The model of a config in the shapes of Stable Diffusion 1.5, and what its parts cost.

    Methods take `forward` or `both` and return operations for one image of 512 x 512.
    """

    def __init__(self, cfg: CfgNode, device: str = "meta"):
        """
        Args:
            device: where its weights are, and get numbers.
        """
        with torch.device(device):
            self.encoder = LatentEncoder(make_vae()).vae
            self.unet = UNetFeatures(make_unet())
            self.text = make_text_encoder()
            bottom_up = DiffusionBackbone(NoLatentEncoder(), self.unet)
            self.fpn = FullPrecisionFPN(
                bottom_up, list(bottom_up.output_shape()), cfg.MODEL.FPN.OUT_CHANNELS
            )
            shapes = self.fpn.output_shape()
            self.heads = nn.ModuleDict()
            if cfg.MODEL.META_ARCHITECTURE == "CaptionedRCNN":
                self.heads["proposals"] = build_proposal_generator(cfg, shapes)
                self.heads["boxes"] = build_roi_heads(cfg, shapes)
            else:
                self.heads["segments"] = build_sem_seg_head(cfg, shapes)
        self.cfg = cfg
        self._empty = functools.partial(torch.empty, device=device)

    def vae(self) -> int:
        return forward(lambda: [self.encoder.encode(empty(1, 3, 512, 512)).latent_dist.mode()])

    def unet_pass(self, mode: Callable) -> int:
        return mode(lambda: list(self._features().values()))

    def text_pass(self) -> int:
        ids = torch.zeros(1, 77, dtype=torch.long, device="meta")
        return forward(lambda: [self.text(ids).last_hidden_state])

    def head_pass(self, mode: Callable, proposals: int) -> int:
        """FPN and heads."""
        return mode(lambda: self.outputs(1, proposals)) - self.unet_pass(mode)

    def _features(self) -> dict[str, Tensor]:
        return self.unet(empty(1, 4, 64, 64), Context(empty(1, 77, 768)), 0.0)

    def outputs(self, images: int, proposals: int) -> list[Tensor]:
        """What the heads make of a batch, up to losses and the choice of proposals.

        Args:
            proposals: of all images together.
        """
        with self.fpn.bottom_up.conditioned(Context(self._empty(images, 77, 768))):
            maps = self.fpn(self._empty(images, 3, 512, 512))
        if "segments" in self.heads:
            return [self.heads["segments"].layers(maps)]
        used = [maps[name] for name in self.cfg.MODEL.RPN.IN_FEATURES]
        scores, deltas = self.heads["proposals"].rpn_head(used)
        roi = self.heads["boxes"]
        side = self.cfg.MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION
        shape = proposals, self.cfg.MODEL.FPN.OUT_CHANNELS, side, side
        boxes = roi.box_head(self._empty(*shape))
        return [*scores, *deltas, *roi.box_predictor(boxes)]

    def trained(self) -> int:
        """Weights that are trained."""
        fpn = [p for p in self.fpn.parameters() if p.requires_grad]
        return sum(p.numel() for p in [*fpn, *self.heads.parameters()])


def blip2_config() -> Blip2Config:
    """The sizes of blip2-opt-2.7b."""
    opt = OPTConfig(
        vocab_size=50304, hidden_size=2560, num_hidden_layers=32, ffn_dim=10240,
        num_attention_heads=32, word_embed_proj_dim=2560,
    )  # fmt: skip
    return Blip2Config(text_config=opt.to_dict())


def blip2() -> tuple[int, int]:
    """Operations for a caption, and weights of the language model, of blip2-opt-2.7b."""
    with torch.device("meta"):
        model = Blip2ForConditionalGeneration(blip2_config()).eval()
    queries, language = model.config.num_query_tokens, model.language_model

    def run() -> list[Tensor]:
        image = model.vision_model(empty(1, 3, 224, 224)).last_hidden_state
        model.qformer(query_embeds=empty(1, queries, 768), encoder_hidden_states=image)
        # Each token once: what was computed of earlier ones is kept.
        return [language(inputs_embeds=empty(1, queries + CAPTION, 2560)).logits]

    return forward(run), sum(p.numel() for p in language.parameters())


def inversion(text: nn.Module) -> int:
    """An image of textual inversion: no weight of UNet and text encoder gets a gradient."""
    with torch.device("meta"):
        unet = make_unet().requires_grad_(False)
    text.requires_grad_(False)

    def run() -> list[Tensor]:
        words = empty(1, 77, 768).requires_grad_()
        context = text.encoder(inputs_embeds=words).last_hidden_state
        times = torch.zeros(1, device="meta")
        return [unet(empty(1, 4, 64, 64), times, encoder_hidden_states=context).sample]

    return both(run)


def dreambooth() -> tuple[int, int]:
    """Operations of an image, and weights."""
    with torch.device("meta"):
        unet = make_unet()
    inputs = empty(1, 4, 64, 64), torch.zeros(1, device="meta"), empty(1, 77, 768)
    run = functools.partial(unet, inputs[0], inputs[1], encoder_hidden_states=inputs[2])
    return both(lambda: [run().sample]), sum(p.numel() for p in unet.parameters())


def training(name: str, model: Model, cached: bool) -> Work:
    cfg = model.cfg
    batch = cfg.SOLVER.IMS_PER_BATCH
    proposals = cfg.MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE
    image = model.unet_pass(both) + model.head_pass(both, proposals)
    image += 0 if cached else model.vae()
    size = 4 * model.trained()
    return Work(name, cfg.SOLVER.MAX_ITER, batch * image, ADAMW * size, size)


def evaluation(name: str, model: Model, images: int, windows: int = 1, bf16: bool = False) -> Work:
    """
    Args:
        bf16: with `TEST.PRECISION bf16`, which is the diffusion model's; text and heads stay fp32.
    """
    evaluations = model.cfg.SOLVER.MAX_ITER // model.cfg.TEST.EVAL_PERIOD
    diffusion = windows * (model.vae() + model.unet_pass(forward))
    head = model.head_pass(forward, model.cfg.MODEL.RPN.POST_NMS_TOPK_TEST)
    each = diffusion + windows * head + model.text_pass()
    fp32 = each - diffusion if bf16 else each
    return Work(f"{name}, {evaluations} times", evaluations * images, each, fp32=fp32)


def personalisation(text: nn.Module) -> list[Work]:
    stages = []
    for preset in ("paper-text", "paper-tables"):
        given = {"token": "<x>", "init": "x"}
        settings = resolve("invert", preset, given)
        step = settings.batch * settings.accumulation * inversion(text)
        stages.append(Work(f"textual inversion, {preset}", settings.steps, step))
    settings = resolve("dreambooth", "paper-text", {"prompt": "x"})
    image, weights = dreambooth()
    size = 4 * weights
    stages.append(
        Work("DreamBooth, paper-text", settings.steps, settings.batch * image, ADAMW * size, size)
    )
    return stages


def captioning(name: str, images: int) -> Work:
    """One image at a time in bf16: every token reads the language model."""
    operations, weights = blip2()
    return Work(name, images, operations, 2 * weights * CAPTION)


def parts_table(models: dict[str, Model]) -> list[str]:
    lines = ["| part, one image of 512 x 512 | forward, TFLOP | forward and backward, TFLOP |"]
    lines += ["| --- | --- | --- |"]
    first = next(iter(models.values()))
    lines.append(f"| VAE encoder, frozen | {first.vae() / 1e12:.3f} | - |")
    lines.append(f"| text encoder, frozen | {first.text_pass() / 1e12:.3f} | - |")
    unet = [first.unet_pass(mode) / 1e12 for mode in (forward, both)]
    lines.append(f"| UNet, features and maps | {unet[0]:.3f} | {unet[1]:.3f} |")
    for name, model in models.items():
        test = model.head_pass(forward, model.cfg.MODEL.RPN.POST_NMS_TOPK_TEST)
        train = model.head_pass(both, model.cfg.MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE)
        lines.append(f"| FPN and heads, {name} | {test / 1e12:.3f} | {train / 1e12:.3f} |")
    return lines


def hours_table(works: Sequence[Work], cards: Sequence[Card], span: Sequence[float]) -> list[str]:
    heads = [f"{c.name}, {n} GPU{'s' if n > 1 else ''}, hours" for c in cards for n in (1, GPUS)]
    lines = ["| stage | count | TFLOP each | " + " | ".join(heads) + " |"]
    lines.append("| --- " * (3 + len(heads)) + "|")
    for work in works:
        cells = [
            f"{work.hours(card, max(span), n):.2g} to {work.hours(card, min(span), n):.2g}"
            for card in cards
            for n in (1, GPUS)
        ]
        each = f"{work.operations / 1e12:.2f}"
        lines.append(f"| {work.name} | {work.count} | {each} | " + " | ".join(cells) + " |")
    return lines


def memory_table(models: dict[str, Model]) -> list[str]:
    lines = ["| held in training, GiB | " + " | ".join(models) + " |"]
    lines.append("| --- " * (1 + len(models)) + "|")
    trained = [4 * model.trained() / GIB for model in models.values()]
    frozen = [
        4 * sum(p.numel() for part in (model.encoder, model.text) for p in part.parameters()) / GIB
        for model in models.values()
    ]
    for name, sizes in (
        ("trained weights, fp32", trained),
        ("their gradients", trained),
        ("AdamW's moments", [2 * size for size in trained]),
        ("frozen VAE encoder and text encoder", frozen),
        ("all but activations", [4 * t + f for t, f in zip(trained, frozen, strict=True)]),
    ):
        lines.append(f"| {name} | " + " | ".join(f"{size:.2f}" for size in sizes) + " |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--card",
        nargs=5,
        action="append",
        metavar=("NAME", "BF16", "FP32", "MEMORY", "LINK"),
        help="peaks in TFLOP/s; memory and link to the next card in GB/s (default: A100 and H100)",
    )
    parser.add_argument(
        "--utilisation", nargs=2, type=float, default=(0.2, 0.4), metavar=("LOW", "HIGH")
    )
    args = parser.parse_args()
    cards = [Card(name, *map(float, rates)) for name, *rates in args.card or CARDS]
    models = {
        "detection": Model(load_config("configs/voc2watercolor_simple.yaml")),
        "segmentation": Model(load_config("configs/cityscapes2darkzurich_simple.yaml")),
    }
    detection, segmentation = models.values()
    works = [
        captioning("captions, VOC and a target", VOC + VOC_TEST + TARGET),
        captioning("captions, Cityscapes and Dark Zurich", CITY + CITY_TEST + NIGHT),
        *personalisation(detection.text),
        training("training, detection", detection, cached=False),
        training("training, detection, cached latents", detection, cached=True),
        evaluation("evaluation, detection", detection, VOC_TEST + TARGET),
        evaluation("evaluation, detection, bf16", detection, VOC_TEST + TARGET, bf16=True),
        training("training, segmentation", segmentation, cached=False),
        evaluation("evaluation, segmentation", segmentation, CITY_TEST + NIGHT, 3),
        evaluation("evaluation, segmentation, bf16", segmentation, CITY_TEST + NIGHT, 3, bf16=True),
    ]
    low, high = args.utilisation
    tables = parts_table(models), hours_table(works, cards, args.utilisation), memory_table(models)
    print(f"Computed. Assumed: products at {low:.0%} to {high:.0%} of the peak, bf16 in training,")
    print("captioning and personalisation, fp32 in evaluation where nothing is said.\n")
    print("\n\n".join("\n".join(table) for table in tables))


if __name__ == "__main__":
    main()
