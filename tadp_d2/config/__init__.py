"""The config: its keys (`keys`), config files and presets (`load`), and what reads it.

`add_tadp_config` is where a Detectron2 program begins. Importing it also registers the data sets,
backbones and meta-architectures of this project; `tadp_d2.config.keys` alone needs no Detectron2.
"""

from typing import Any


def __getattr__(name: str) -> Any:
    if name != "add_tadp_config":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from tadp_d2.config.registration import add_tadp_config

    return add_tadp_config
