"""The questions about adaptation: what is compared with what, and what the paper claims.

Data only. What a training is and how it runs is `adaptation`, what came of it `verdicts`.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from tadp_d2.conditioning.domains import DOMAINS, PLACEHOLDER, SLOT
from tadp_d2.reports.published import BENCHMARKS, MODIFIER_TITLES, Benchmark
from tadp_d2.study import caption_kinds

PRETRAINED, RANDOM = "pretrained", "random"


@dataclass(frozen=True)
class Reading:
    """What a model reads with an image.

    Attributes:
        captions: one of `caption_kinds.KINDS`.
        template: around them. A placeholder `<style>` is a token learned from images in it.
    """

    captions: str = caption_kinds.OWN
    template: str = SLOT

    @property
    def name(self) -> str:
        return f"{self.captions} in {self.template!r}"

    @property
    def styles(self) -> list[str]:
        """The styles of its tokens."""
        return [token.strip("<>") for token in PLACEHOLDER.findall(self.template)]


@dataclass(frozen=True)
class Training:
    """What decides on a model, besides the seed.

    Attributes:
        task: a key of `adaptation.SCHEDULES`.
        reading: in training.
        unet: that it begins with: `PRETRAINED`, `RANDOM`, or the style of the images on which it
            was fine-tuned (DreamBooth).
        options: keys of the config and their values.
    """

    task: str = "detection"
    reading: Reading = Reading()
    unet: str = PRETRAINED
    options: tuple[tuple[str, object], ...] = ()

    @property
    def name(self) -> str:
        """Fit for a file's name; no other training of `QUESTIONS` has it."""
        words = [self.task, self.reading.captions]
        words += [self.reading.template.replace(SLOT, "")] if self.reading.template != SLOT else []
        words += [f"{self.unet} unet"] if self.unet != PRETRAINED else []
        words += [f"{key.rpartition('.')[2]} {value}" for key, value in self.options]
        spelled = PLACEHOLDER.sub(lambda token: f"token {token[0].strip('<>')}", " ".join(words))
        return re.sub(r"[^a-z0-9.]+", "-", spelled.lower()).strip("-")


@dataclass(frozen=True)
class Claim:
    """What the paper claims of two arms.

    Attributes:
        against: the other arm's name.
        direction: 1 for better than that, -1 for worse, 0 for equal; None for no claim.
        source: section or table.
    """

    against: str
    direction: int | None = None
    source: str = ""


@dataclass(frozen=True)
class Arm:
    """One side of a comparison: a model and what it reads in testing."""

    name: str
    training: Training
    test: Reading
    claims: tuple[Claim, ...] = ()


@dataclass(frozen=True)
class Target:
    """A data set on which models are compared.

    Attributes:
        domain: a key of `tadp_d2.conditioning.domains.DOMAINS`.
        dataset: its registered name.
        task: a key of `adaptation.SCHEDULES`.
        metric: by which models are compared.
        benchmark: the paper's numbers; None where no paper has any.
    """

    domain: str
    dataset: str
    task: str
    metric: str
    benchmark: Benchmark | None = None


@dataclass(frozen=True)
class Question:
    """
    Attributes:
        title: as a reader asks it.
        domains: the targets on which it is asked, keys of `TARGETS`.
        make_arms: the arms on a target; a claim of an arm is about those before it, too.
    """

    title: str
    domains: tuple[str, ...]
    make_arms: Callable[[Target], list[Arm]]

    def arms(self) -> dict[str, list[Arm]]:
        """Target domain -> its arms."""
        return {domain: self.make_arms(TARGETS[domain]) for domain in self.domains}


_ART = ("watercolor", "comic")
_ALL = (*_ART, "night")
_TASKS = {"voc07": "detection", "sem_seg": "segmentation"}
# Name -> target: the paper's by their domains, those without a paper with what is asked there.
TARGETS = {
    **{
        b.domain: Target(b.domain, b.dataset, _TASKS[b.metric_set], b.metrics[-1], b)
        for b in BENCHMARKS
        if b.domain in _ALL and b.dataset != "nighttime_driving_test"
    },
    **{
        f"{domain} expressions": Target(domain, f"refcoco_{domain}_test", "referring", "oIoU")
        for domain in _ART
    },
    # Layouts of the same synthetic scenes, for `prompts`.
    **{layout: Target("", f"{layout}_val", layout, "mIoU") for layout in ("pascal", "ade20k")},
    "pascal demo": Target("", "pascal_val", "pascal demo", "mIoU"),
}
# The tagging adapter in the proportions of the tiny UNet.
TINY_ADAPTER = {"MODEL.CONDITIONER.TAGGING.WIDTH": 64, "MODEL.CONDITIONER.TAGGING.HEADS": 4}
_NULL = Reading()
_MAPS = "MODEL.DIFFUSION.ATTENTION_MAPS"
# A conditioner that starts from random weights has few iterations to learn.
_FASTER = ("SOLVER.CONDITIONER_LR_FACTOR", 5.0)


def _arm(
    target: Target,
    name: str,
    *claims: Claim,
    reading: Reading = _NULL,
    test: Reading | None = None,
    unet: str = PRETRAINED,
    options: tuple[tuple[str, object], ...] = (),
) -> Arm:
    """An arm on a target; it reads the same in training and testing unless `test` is given."""
    training = Training(target.task, reading, unet, options)
    return Arm(name, training, test or reading, claims)


def _pretraining(target: Target) -> list[Arm]:
    claim = Claim("random UNet", 1, "TADP 4.3.1")
    return [
        _arm(target, "random UNet", unet=RANDOM),
        _arm(target, "pretrained UNet", claim),
    ]


def _text(target: Target) -> list[Arm]:
    arms = [
        _arm(target, "empty", reading=Reading(caption_kinds.EMPTY)),
        _arm(target, "captions", Claim("empty")),
    ]
    if target.task == "segmentation":
        # Those of Cityscapes were asked of a text encoder that could not read their names.
        return arms

    def told(kind: str, *claims: Claim) -> Arm:
        return _arm(target, kind, *claims, reading=Reading(kind))

    return [
        *arms,
        told(
            caption_kinds.CLASS_EMBEDDINGS,
            Claim("empty", 1, "VPD table 5"),
            Claim("captions", -1, "TADP table 1"),
        ),
        told(
            caption_kinds.CLASS_NAMES,
            Claim(caption_kinds.CLASS_EMBEDDINGS, 1, "TADP table 1"),
            Claim("captions", -1, "TADP table 1"),
        ),
        told(caption_kinds.ORACLE, Claim("captions", 1, "TADP table 1")),
        *(
            told(f"oracle, {what} {rate}", Claim(caption_kinds.ORACLE, -1, "TADP table S2"))
            for what in ("precision", "recall")
            for rate in caption_kinds.ORACLE_RATES
        ),
    ]


def _attention_maps(target: Target) -> list[Arm]:
    return [
        _arm(target, "with maps"),
        _arm(
            target,
            "without maps",
            Claim("with maps", -1, "VPD table 5"),
            options=((f"{_MAPS}.LEVELS", ()),),
        ),
        _arm(
            target,
            "maps without gradient",
            Claim("with maps"),
            Claim("without maps", 1, "VPD table 5"),
            options=((f"{_MAPS}.GRADIENT", False),),
        ),
    ]


def _latent_scaling(target: Target) -> list[Arm]:
    return [
        _arm(target, "not scaled", options=(("MODEL.DIFFUSION.LATENT_SCALING", False),)),
        _arm(target, "scaled", Claim("not scaled", 1, "TADP 4.1")),
    ]


def _low_rank(target: Target) -> list[Arm]:
    rank = ("MODEL.DIFFUSION.LORA_RANK", 8)
    faster = ("SOLVER.UNET_LR_FACTOR", 5.0)
    return [
        _arm(target, "all weights"),
        _arm(target, "rank 8", Claim("all weights"), options=(rank,)),
        _arm(target, "rank 8, faster", Claim("all weights"), options=(rank, faster)),
    ]


def _modifiers(target: Target) -> list[Arm]:
    return [
        _arm(
            target,
            MODIFIER_TITLES[modifier.name],
            *_published(target, modifier.name),
            reading=Reading(template=modifier.template),
            unet=target.domain if modifier.needs == "unet" else PRETRAINED,
        )
        for modifier in DOMAINS[target.domain].modifiers.values()
    ]


def _modifiers_in_testing(target: Target) -> list[Arm]:
    """DreamBooth's words only: a checkpoint's own UNet takes the place of any other."""
    return [
        _arm(
            target,
            MODIFIER_TITLES[modifier.name] + (" (words)" if modifier.needs == "unet" else ""),
            *_published(target, modifier.name),
            test=Reading(template=modifier.template),
        )
        for modifier in DOMAINS[target.domain].modifiers.values()
    ]


def _published(target: Target, modifier: str) -> list[Claim]:
    """That a modifier is better or worse than null, as in the paper's table."""
    if modifier == "null":
        return []
    paper = target.benchmark
    null, value = (paper.ours[MODIFIER_TITLES[name]][-1] for name in ("null", modifier))
    difference = round(value - null, 1)
    direction = (difference > 0) - (difference < 0)
    return [Claim("null", direction, f"TADP table {paper.table}: {difference:+}")]


def _source_style(target: Target) -> list[Arm]:
    modifiers = DOMAINS[target.domain].modifiers
    simple, token = (Reading(template=modifiers[name].template) for name in ("simple", "ti"))
    photo = Reading(template=f"a photo of {SLOT}")
    photo_token = Reading(template=token.template.replace(target.domain, "photo"))
    claims = (Claim("null"), Claim("simple"))
    return [
        _arm(target, "null"),
        _arm(target, "simple", reading=simple),
        _arm(target, "photo, then target, in words", *claims, reading=photo, test=simple),
        _arm(target, "photo, then target, as tokens", *claims, reading=photo_token, test=token),
    ]


def _cleaning(target: Target) -> list[Arm]:
    simple = Reading(template=DOMAINS[target.domain].modifiers["simple"].template)
    uncleaned = Reading(f"uncleaned {target.domain}", simple.template)
    claim = Claim("cleaned", -1, "TADP 4.3, argued")
    return [
        _arm(target, "cleaned", reading=simple),
        _arm(target, "uncleaned", claim, reading=simple, test=uncleaned),
    ]


def _caption_quality(target: Target) -> list[Arm]:
    # There the models are trained on such captions, too.
    claim = Claim("captions", -1, "TADP table S2, trained so")
    spoiled = [
        f"words {how}: {rate}" for how in ("dropped", "wrong") for rate in caption_kinds.RATES
    ]
    return [
        _arm(target, "captions"),
        *(_arm(target, kind, claim, test=Reading(kind)) for kind in spoiled),
    ]


def _tagging(target: Target) -> list[Arm]:
    """The rows of the tagging adapter's table 5 on a target, and a modifier in testing.

    All without maps and with null words in training. Tags err: of each image a quarter of the
    classes is not named, and a quarter of the names is wrong. What no paper reports has no claim.
    """
    no_maps = (f"{_MAPS}.LEVELS", ())
    erring = [(f"MODEL.CONDITIONER.ORACLE.{key}", 0.75) for key in ("PRECISION", "RECALL")]
    simple = Reading(template=DOMAINS[target.domain].modifiers["simple"].template)

    def arm(
        name: str,
        *against: str,
        conditioner: str,
        own: Iterable[tuple[str, object]] = (),
        test: Reading = _NULL,
    ) -> Arm:
        options = (("MODEL.CONDITIONER.NAME", conditioner), *own, no_maps)
        claims = map(Claim, against)
        return _arm(target, name, *claims, test=test, options=options)

    def adapter(
        name: str,
        *against: str,
        tags: str,
        own: Iterable[tuple[str, object]] = (),
        test: Reading = _NULL,
    ) -> Arm:
        return arm(
            name,
            *against,
            conditioner="TaggingAdapter",
            own=(
                ("MODEL.CONDITIONER.TAGGING.TAGS", tags),
                *(erring if tags == "oracle" else ()),
                *own,
                _FASTER,
            ),
            test=test,
        )

    return [
        arm("unconditional", conditioner="EmptyText"),
        _arm(target, "captions", Claim("unconditional"), options=(no_maps,)),
        arm("class names, text adapter", "unconditional", "captions", conditioner="TextAdapter"),
        arm(
            "implicit captioner",
            "unconditional",
            "captions",
            conditioner="ImplicitCaptioner",
            own=(_FASTER,),
        ),
        arm("tags as text", "captions", conditioner="Oracle", own=erring),
        arm(
            "tags as text, in the target's style",
            "tags as text",
            conditioner="Oracle",
            own=erring,
            test=simple,
        ),
        adapter(
            "adapter without its loss",
            "unconditional",
            tags="classes",
            own=(("MODEL.CONDITIONER.TAGGING.LOSS_WEIGHT", 0.0),),
        ),
        adapter("adapter, class names", "adapter without its loss", "captions", tags="classes"),
        adapter("adapter, tags", "adapter, class names", "tags as text", tags="oracle"),
        adapter("adapter, tags in the target's style", "adapter, tags", tags="oracle", test=simple),
        adapter("adapter, its own tags", "adapter, class names", tags="own"),
        adapter(
            "adapter, its own tags in the target's style",
            "adapter, its own tags",
            tags="own",
            test=simple,
        ),
    ]


def _referring(target: Target) -> list[Arm]:
    """Trained on photos and their expressions as they are; no paper reports it."""
    expressions = Reading(caption_kinds.EXPRESSIONS)
    simple = DOMAINS[target.domain].modifiers["simple"].template
    return [
        _arm(target, "expressions", reading=expressions),
        _arm(
            target,
            "in the target's style",
            Claim("expressions"),
            reading=expressions,
            test=Reading(caption_kinds.EXPRESSIONS, simple),
        ),
    ]


# Name -> question, in the order of the table.
QUESTIONS = {
    "pretraining": Question("Does pretraining help?", _ART, _pretraining),
    "text": Question("Does text help, and which?", _ALL, _text),
    "attention-maps": Question("Do the attention maps help?", _ART, _attention_maps),
    "latent-scaling": Question("Does latent scaling help?", _ART, _latent_scaling),
    "low-rank": Question(
        "What does it cost to train updates of low rank only (LORA_RANK)?", _ART, _low_rank
    ),
    "modifiers": Question("Which modifier helps, in training and testing?", _ALL, _modifiers),
    "modifiers-in-testing": Question(
        "Which modifier helps in testing only, as released?", _ART, _modifiers_in_testing
    ),
    "source-style": Question(
        "Does it help to name the source's style in training?", _ART, _source_style
    ),
    "cleaning": Question("Must captions of the target be cleaned?", _ART, _cleaning),
    "caption-quality": Question("How good must captions be in testing?", _ART, _caption_quality),
    "tagging": Question("Does the tagging adapter help?", _ALL, _tagging),
    "referring": Question(
        "Does it help an expression to name the target's style in testing?",
        tuple(f"{domain} expressions" for domain in _ART),
        _referring,
    ),
}


def plan(questions: Iterable[Question]) -> dict[Training, dict[str, list[Reading]]]:
    """Every training that questions need -> data set -> what it reads there.

    A training is tested on all that any of `QUESTIONS` asks of it: its weights are not kept.
    """
    needed = {arm.training for question in questions for _, arm in _sides(question)}
    found: dict[Training, dict[str, dict[Reading, None]]] = {}
    for question in QUESTIONS.values():
        for dataset, arm in _sides(question):
            if arm.training in needed:
                found.setdefault(arm.training, {}).setdefault(dataset, {})[arm.test] = None
    return {
        training: {dataset: list(readings) for dataset, readings in own.items()}
        for training, own in found.items()
    }


def _sides(question: Question) -> list[tuple[str, Arm]]:
    """Data set and arm."""
    return [(TARGETS[d].dataset, arm) for d, arms in question.arms().items() for arm in arms]
