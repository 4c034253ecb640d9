"""The options by which a command names a model. It imports nothing heavy: `--help` answers."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from detectron2.config import CfgNode


def add_model_options(parser: argparse.ArgumentParser, weights_required: bool) -> None:
    parser.add_argument(
        "--config-file",
        "--config",
        metavar="NAME|FILE",
        help="of the model (default: the config.yaml beside --weights)",
    )
    parser.add_argument(
        "--weights", required=weights_required, help="checkpoint of a run, such as model_final.pth"
    )
    parser.add_argument(
        "--modifier",
        help="null, simple, ti, dreambooth, nearby, unrelated, or a template with {caption} "
        "(default: that of the config)",
    )
    add_opts(parser)


def add_opts(parser: argparse.ArgumentParser) -> None:
    """Adds config keys behind a flag, as in Detectron2's own demo: other arguments come first."""
    parser.add_argument(
        "--opts",
        nargs=argparse.REMAINDER,
        default=[],
        metavar="KEY VALUE",
        help="config keys, as in tadp-d2 train; last on the command line",
    )


def read_config(args: argparse.Namespace, *overrides: str) -> "CfgNode":
    """The config of a command with `add_model_options`; its limit on images holds from now on.

    Args:
        overrides: KEY VALUE pairs of the command's own.

    Raises:
        UserError: as `load_config` and `config_file`.
    """
    from tadp_d2.config.load import load_config
    from tadp_d2.data.images import set_pixel_limit

    pairs = [*overrides]
    if args.weights:
        pairs += ["MODEL.WEIGHTS", args.weights]
    if args.modifier:
        pairs += ["TEXT.MODIFIER", args.modifier]
    cfg = load_config(config_file(args), overrides=[*pairs, *args.opts])
    set_pixel_limit(cfg.INPUT.MAX_PIXELS)
    return cfg


def config_file(args: argparse.Namespace) -> str:
    """The config file that is named, or that of the run whose weights are; empty for none.

    Raises:
        UserError: there is none beside the weights.
    """
    from tadp_d2.errors import UserError

    if args.config_file or not args.weights:
        return args.config_file or ""
    beside = Path(args.weights).with_name("config.yaml")
    if not beside.is_file():
        raise UserError(f"{args.weights}: has no config.yaml beside it; name a --config-file")
    return str(beside)
