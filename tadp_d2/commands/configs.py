"""`tadp-d2 configs`: the configs and presets that come with the package."""

import argparse


def add(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "configs",
        help="list the configs that come with the package",
        description="Lists configs (for --config) with the task, the row of a paper's table and a "
        "line on each, then presets (for --preset).",
    )
    parser.add_argument(
        "name", nargs="*", help="list those alone whose name begins so (default: all)"
    )
    parser.add_argument(
        "--path",
        action="store_true",
        help="print the paths of the files instead, such as for _BASE_ of a config of your own",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    from tadp_d2.config.shipped import config_names, experiment_names, find_config
    from tadp_d2.errors import UserError

    beginnings = tuple(args.name) or ("",)
    names = [name for name in config_names() if name.startswith(beginnings)]
    if not names:
        raise UserError(f"no config's name begins with {' or '.join(args.name)}")
    if args.path:
        print("\n".join(map(find_config, names)))
        return
    _list_experiments([name for name in experiment_names() if name in names])
    if not args.name:
        _list_presets()


def _list_experiments(names: list[str]) -> None:
    from detectron2.config import get_cfg
    from tabulate import tabulate

    from tadp_d2.config.registration import add_tadp_config
    from tadp_d2.config.shipped import describe, find_config
    from tadp_d2.tasks.task import get_task

    cfg = get_cfg()
    add_tadp_config(cfg)
    rows = []
    for name in names:
        found = describe(find_config(name))
        cfg.MODEL.META_ARCHITECTURE, cfg.MODEL.TASK = found.architecture, found.task
        rows.append((name, get_task(cfg).name, found.row or "-", found.text))
    print(tabulate(rows, ("config", "task", "row", "")))


def _list_presets() -> None:
    from tabulate import tabulate

    from tadp_d2.config.shipped import describe, find_preset, preset_names

    rows = [(name, describe(find_preset(name)).text) for name in preset_names()]
    print("\n" + tabulate(rows, ("preset", "")))
