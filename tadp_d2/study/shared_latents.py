"""The latents that all trainings of a study share."""

from pathlib import Path

from detectron2.config import CfgNode

from tadp_d2.conditioning.conditioner import get_conditioner_class


def share_latents(cfg: CfgNode, folder: Path) -> None:
    """Makes a config keep its latents in a study's folder, unless its conditioner needs images."""
    if get_conditioner_class(cfg).looks_at_images(cfg):
        return
    cfg.defrost()
    cfg.MODEL.DIFFUSION.LATENT_CACHE.FOLDER = str(folder / "latents")
    cfg.freeze()
