"""`tadp-d2 app`: a page on this machine to play with the words of trained models."""

import argparse

from tadp_d2.inference.model_options import add_model_options, config_file, read_config

PORT = 8470


def add(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "app",
        help="a local page: change a word and see the prediction change",
        description="Serves a page to the browsers of this machine, and to no other: choose an "
        "image, edit its caption and the words around it, and compare two predictions and what "
        "each word looks at. The page loads nothing from elsewhere. Ctrl-C ends it.",
    )
    parser.add_argument("--second-weights", help="checkpoint of a second model, of any task")
    parser.add_argument(
        "--second-config", help="its config (default: the config.yaml beside --second-weights)"
    )
    parser.add_argument(
        "--port", type=int, default=PORT, help=f"0 takes any free one (default: {PORT})"
    )
    add_model_options(parser, weights_required=True)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    import tempfile
    from pathlib import Path

    from tadp_d2.app.local_server import LocalServer
    from tadp_d2.app.player import Player
    from tadp_d2.app.playground import Playground
    from tadp_d2.data.images import set_pixel_limit
    from tadp_d2.errors import UserError
    from tadp_d2.progress import hide_library_bars

    hide_library_bars()
    if args.second_config and not args.second_weights:
        raise UserError("--second-config: name the checkpoint with --second-weights")
    if not 0 <= args.port < 2**16:
        raise UserError(f"--port {args.port}: expected 0 to {2**16 - 1}")
    models = [args]
    if args.second_weights:
        second = {"weights": args.second_weights, "config_file": args.second_config}
        models.append(argparse.Namespace(**vars(args) | second))
    configs = [read_config(model) for model in models]
    set_pixel_limit(min(cfg.INPUT.MAX_PIXELS for cfg in configs))
    with (
        LocalServer(args.port) as server,
        tempfile.TemporaryDirectory(prefix="tadp_d2_app_") as uploads,
    ):
        players = [
            Player(cfg, [f"--config-file={config_file(m)}", f"--weights={m.weights}"], m.opts)
            for cfg, m in zip(configs, models, strict=True)
        ]
        server.playground = Playground(players, Path(uploads))
        try:
            print(f"{server.url} (Ctrl-C ends it)", flush=True)
            server.serve_forever()
        except KeyboardInterrupt:
            print()
        finally:
            server.playground.jobs.close()
