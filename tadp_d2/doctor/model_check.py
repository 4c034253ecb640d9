"""What a config names besides data: base model, tokens, fine-tuned UNet, checkpoint."""

from collections.abc import Iterator

from detectron2.config import CfgNode
from detectron2.modeling import build_model

from tadp_d2.conditioning.conditioner import open_model_of
from tadp_d2.diffusion.diffusion_model import MapOptions
from tadp_d2.diffusion.families import must_be_fetched
from tadp_d2.diffusion.tokens import read_tokens
from tadp_d2.doctor.environment import check_room
from tadp_d2.doctor.findings import Finding, Kind, problems
from tadp_d2.engine.checkpoint import RunCheckpointer
from tadp_d2.engine.checks import check_fit
from tadp_d2.errors import UserError
from tadp_d2.modeling.image_networks import network_must_be_fetched
from tadp_d2.modeling.pretrained_backbone import BUILDERS
from tadp_d2.records.provenance import Provenance


def check_base_model(cfg: CfgNode) -> Iterator[Finding]:
    """Loads the base model and learned tokens, as far as no architecture is chosen."""
    if must_be_fetched(cfg.MODEL.DIFFUSION.WEIGHTS, cfg.MODEL.DIFFUSION.REVISION):
        yield _not_here(cfg.MODEL.DIFFUSION.WEIGHTS)
        return
    try:
        model = open_model_of(cfg)
        model.load_text_encoder(cfg.TEXT.TOKENS)
        model.load_features(model.load_latent_encoder(), MapOptions(levels=()))
    except UserError as error:
        yield from problems([error])
    else:
        yield Finding(Kind.GOOD, f"{model.folder}: complete")


def check_model(cfg: CfgNode) -> Iterator[Finding]:
    """Builds the model of a config, and loads the checkpoint that it starts from."""
    pretrained = cfg.MODEL.BACKBONE.NAME in BUILDERS
    weights = cfg.MODEL.PRETRAINED.WEIGHTS if pretrained else cfg.MODEL.DIFFUSION.WEIGHTS
    if (
        network_must_be_fetched(weights)
        if pretrained
        else must_be_fetched(weights, cfg.MODEL.DIFFUSION.REVISION)
    ):
        yield _not_here(weights)
        return
    errors: list[UserError] = []
    for file in cfg.TEXT.TOKENS:
        try:
            read_tokens(file)
        except UserError as error:
            errors.append(error)
    try:
        check_fit(cfg)
        model = build_model(cfg)
        yield Finding(Kind.GOOD, f"{weights}: complete")
        provenance = Provenance(cfg, model)
        yield from check_room(cfg, model)
        if cfg.MODEL.WEIGHTS:
            RunCheckpointer(model, cfg.OUTPUT_DIR, provenance).load(cfg.MODEL.WEIGHTS)
            yield Finding(Kind.GOOD, f"{cfg.MODEL.WEIGHTS}: fits")
    except UserError as error:
        errors.append(error)
    yield from problems(errors)


def _not_here(weights: str) -> Finding:
    return Finding(
        Kind.NOTE,
        f"{weights}: not here yet, so neither it nor what rests on it was "
        "checked; a run fetches it from the hub",
    )
