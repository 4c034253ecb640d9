"""`tadp-d2 train`: trains and evaluates a config. `train_net.py` is this command."""

import argparse
import os


def add(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "train",
        help="train and evaluate a config",
        description="Trains a config and evaluates it on its test sets. Leaves checkpoints, "
        "results.json and a gallery in OUTPUT_DIR. train_net.py of a checkout is this command.",
    )
    # Those of Detectron2's own script, and --preset.
    parser.add_argument(
        "--config-file",
        "--config",
        default="",
        metavar="NAME|FILE",
        help="a config of the package (tadp-d2 configs lists them), or a YAML file",
    )
    parser.add_argument(
        "--preset",
        action="append",
        default=[],
        metavar="NAME",
        help="settings on top of the config (tadp-d2 configs lists them, too); may be repeated, "
        "the last one is the strongest",
    )
    parser.add_argument(
        "--resume", action="store_true", help="go on from the last checkpoint of OUTPUT_DIR, if any"
    )
    parser.add_argument(
        "--eval-only", action="store_true", help="evaluate MODEL.WEIGHTS; train nothing"
    )
    parser.add_argument(
        "--num-gpus",
        type=int,
        default=1,
        metavar="N",
        help="processes of this machine (default 1)",
    )
    parser.add_argument(
        "--num-machines", type=int, default=1, metavar="N", help="machines (default: 1)"
    )
    parser.add_argument(
        "--machine-rank", type=int, default=0, metavar="I", help="number of this one, from 0"
    )
    # Users of a machine do not share a port, as in Detectron2.
    port = 2**15 + 2**14 + hash(os.getuid() if hasattr(os, "getuid") else 1) % 2**14
    parser.add_argument(
        "--dist-url",
        default=f"tcp://127.0.0.1:{port}",
        metavar="URL",
        help="of several machines: tcp://HOST:PORT, a free port of machine 0",
    )
    parser.add_argument(
        "opts",
        nargs=argparse.REMAINDER,
        default=[],
        metavar="KEY VALUE",
        help="config keys and their values, last on the command line",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    from tadp_d2.engine.launch import launch

    launch(_train_or_evaluate, args)


def _train_or_evaluate(args: argparse.Namespace) -> None:
    # Here, because a process that only starts others needs none of it.
    from tadp_d2.start_up import importing

    with importing():
        from tadp_d2.engine.run import train_or_evaluate

    train_or_evaluate(args)
