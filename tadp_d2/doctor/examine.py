"""The order of the checks."""

from collections.abc import Sequence

from detectron2.config import CfgNode

from tadp_d2.config.load import load_config
from tadp_d2.data.catalog import check_registered, known_datasets
from tadp_d2.data.images import set_pixel_limit
from tadp_d2.data.root import data_set_guide, datasets_root
from tadp_d2.doctor.dataset_check import check_dataset, present
from tadp_d2.doctor.environment import check_environment
from tadp_d2.doctor.findings import Printout, problems
from tadp_d2.doctor.model_check import check_base_model, check_model
from tadp_d2.errors import UserError


def examine(
    config_file: str, overrides: Sequence[str], datasets: Sequence[str], printout: Printout
) -> None:
    """Checks the environment, then weights, then data sets.

    Args:
        config_file: empty for the defaults, which choose neither data nor architecture.
        overrides: `KEY VALUE` pairs on top.
        datasets: registered names, of interest alone if there is no config; none for those of the
            config, or for all that are here.

    Raises:
        UserError: a data set is unknown.
    """
    for dataset in datasets:
        check_registered(dataset)
    printout.section("environment", check_environment())
    try:
        cfg = _load(config_file, overrides, datasets)
    except UserError as error:
        printout.section("config", problems([error]))
        return
    set_pixel_limit(cfg.INPUT.MAX_PIXELS)
    if config_file or not datasets:
        printout.section("weights", (check_model if config_file else check_base_model)(cfg))
    if datasets or config_file:
        for dataset in datasets or dict.fromkeys((*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST)):
            printout.section(dataset, check_dataset(cfg, dataset, needed=bool(config_file)))
        return
    found = present()
    for dataset in found:
        printout.section(dataset, check_dataset(cfg, dataset, needed=False))
    if not found:
        nothing = (
            f"{datasets_root()}: no data set is here in one of the layouts of {data_set_guide()}. "
            "Set DETECTRON2_DATASETS to the folder that holds them, or write small "
            "synthetic data sets: tadp-d2 synth FOLDER"
        )
        printout.section("data sets", problems([UserError(nothing)]))


def _load(config_file: str, overrides: Sequence[str], datasets: Sequence[str]) -> CfgNode:
    if config_file:
        return load_config(config_file, overrides=overrides)
    names = tuple(datasets or present() or known_datasets())
    return load_config(overrides=["DATASETS.TRAIN", names, "DATASETS.TEST", names, *overrides])
