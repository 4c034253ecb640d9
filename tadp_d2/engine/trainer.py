"""Detectron2's trainer with this project's data, optimizer, evaluators and checkpoints."""

import logging
import math
import weakref
from collections import OrderedDict
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.engine import DefaultTrainer, HookBase, TrainerBase, create_ddp_model
from detectron2.engine.hooks import EvalHook, PeriodicCheckpointer
from detectron2.evaluation import DatasetEvaluator, DatasetEvaluators
from detectron2.utils import comm
from detectron2.utils.events import EventStorage, EventWriter
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import DataLoader

from tadp_d2.data.loader import build_test_loader, build_train_loader
from tadp_d2.engine.best_checkpoint import keep_best
from tadp_d2.engine.checkpoint import RunCheckpointer, find_checkpoints
from tadp_d2.engine.interruption import CatchUpEvaluation, ResumableWriter, SaveOnSignal
from tadp_d2.engine.learning_rates import LearningRates
from tadp_d2.engine.optimizer import build_optimizer, build_scheduler
from tadp_d2.engine.train_step import AccumulatingTrainer, NonFiniteLoss
from tadp_d2.errors import UserError, reason
from tadp_d2.evaluation.tag_metrics import tag_evaluators
from tadp_d2.files import remove_leftovers
from tadp_d2.records.provenance import Provenance
from tadp_d2.records.results import drop_later_lines, has_metrics, log_table, write_results
from tadp_d2.tasks.task import get_task
from tadp_d2.visualization.gallery import Gallery

_logger = logging.getLogger(__name__)


class Trainer(DefaultTrainer):
    """Trains a config and evaluates it on every data set of `DATASETS.TEST`."""

    def __init__(self, cfg: CfgNode):
        """
        Raises:
            UserError: as the model's parts do, or it cannot do what the config asks of it.
        """
        TrainerBase.__init__(self)
        model = self.build_model(cfg)
        _check_draws(cfg, model)
        optimizer = self.build_optimizer(cfg, model)
        self._trainer = AccumulatingTrainer(
            create_ddp_model(
                model,
                broadcast_buffers=False,
                device_ids=[comm.get_local_rank()] if next(model.parameters()).is_cuda else None,
            ),
            [],  # the loader depends on where the run begins: `train`
            optimizer,
            accumulation=cfg.SOLVER.GRADIENT_ACCUMULATION,
            precision=cfg.SOLVER.AMP.DTYPE if cfg.SOLVER.AMP.ENABLED else "fp32",
            seed=cfg.SEED,
        )
        self.scheduler = self.build_lr_scheduler(cfg, optimizer)
        self.checkpointer = RunCheckpointer(
            model,
            cfg.OUTPUT_DIR,
            Provenance(cfg, model),
            keep=cfg.SOLVER.CHECKPOINTS_KEPT,
            trainer=weakref.proxy(self),
        )
        self.start_iter = 0
        self.max_iter = cfg.SOLVER.MAX_ITER
        self.cfg = cfg
        self.register_hooks(self.build_hooks())

    def build_hooks(self) -> list[HookBase]:
        """Detectron2's, two that stop and continue a run cleanly, and the learning rates."""
        hooks = super().build_hooks()
        place = next(i for i, hook in enumerate(hooks) if isinstance(hook, EvalHook))
        divided = self.cfg.SOLVER.SHARD_OPTIMIZER and comm.get_world_size() > 1
        self._stopping = SaveOnSignal(self._trainer.waited, divided)
        evaluation = EvalHook(self.cfg.TEST.EVAL_PERIOD, self._evaluate)
        return [
            # Before Detectron2's scheduler, which sets those of the next iteration.
            LearningRates(),
            # Detectron2 has the next one in the main process alone.
            *(hook for hook in hooks[:place] if not isinstance(hook, PeriodicCheckpointer)),
            PeriodicCheckpointer(self.checkpointer, self.cfg.SOLVER.CHECKPOINT_PERIOD),
            self._stopping,
            evaluation,
            *hooks[place + 1 :],
            CatchUpEvaluation(evaluation, self._lacks_evaluation),
        ]

    def _evaluate(self) -> OrderedDict[str, Any]:
        with self._stopping.evaluating():
            results = self.test(self.cfg, self.model, final=self.iter + 1 >= self.max_iter)
        if self.cfg.TEST.KEEP_BEST:
            keep_best(self.cfg, self.checkpointer, results)
        return results

    # The writers open their files at once, before it is known where the run begins: see `train`.
    def build_writers(self) -> list[EventWriter]:
        return []

    def resume_or_load(self, resume: bool = True) -> None:
        """As Detectron2's, after removing what a killed run left half-written.

        Raises:
            UserError: as the checkpointer's `load`; the processes see different files; the run has
                done more than `SOLVER.MAX_ITER`.
        """
        if comm.is_main_process():
            remove_leftovers(self.cfg.OUTPUT_DIR)
        comm.synchronize()
        super().resume_or_load(resume)
        if len(set(comm.all_gather(self.start_iter))) > 1:
            raise UserError(
                f"not all processes find the same checkpoint in {self.cfg.OUTPUT_DIR}: it must be "
                "on a disk that all machines share"
            )
        if self.start_iter > self.max_iter:
            raise UserError(
                f"{self.cfg.OUTPUT_DIR} has done {self.start_iter} iterations: SOLVER.MAX_ITER "
                f"{self.max_iter} cannot take them back; choose another OUTPUT_DIR"
            )

    def train(self) -> Any:
        """Trains from where `resume_or_load` ended, to the same result as without a stop."""
        per_iteration = self.cfg.SOLVER.IMS_PER_BATCH * self.cfg.SOLVER.GRADIENT_ACCUMULATION
        self._trainer.data_loader = self.build_train_loader(
            self.cfg, start=self.start_iter * per_iteration
        )
        if comm.is_main_process():
            drop_later_lines(self._metrics_file, self.start_iter)
            # Every 20 iterations as Detectron2, and with every evaluation.
            period = math.gcd(20, self.cfg.TEST.EVAL_PERIOD)
            self.register_hooks([ResumableWriter(super().build_writers(), period)])
        return super().train() if self.start_iter < self.max_iter else self._finish()

    def _finish(self) -> None:
        """The end of a run without iterations left: a stop cut it off, or there are none."""
        with EventStorage(self.max_iter) as self.storage:
            self.before_train()
            if self.max_iter:
                self.iter = self.max_iter - 1  # the last that was done, for the checkpoint
                self.checkpointer.save("model_final", iteration=self.iter)
            self.iter = self.max_iter
            self.after_train()

    def after_train(self) -> None:
        """As Detectron2's. After an error only what cleans up, whose own errors are logged."""
        if self.iter == self.max_iter:
            super().after_train()
            return
        self.storage.iter = self.iter
        for hook in self._hooks:
            if not isinstance(hook, EvalHook):
                try:
                    hook.after_train()
                except Exception as error:
                    _logger.warning(f"After an error: {reason(error)}")

    @property
    def _metrics_file(self) -> Path:
        return Path(self.cfg.OUTPUT_DIR, "metrics.json")

    def _lacks_evaluation(self, iteration: int) -> bool:
        """Whether this process writes metrics and has written none of any test set."""
        return comm.is_main_process() and not has_metrics(
            self._metrics_file, iteration, self.cfg.DATASETS.TEST
        )

    def run_step(self) -> None:
        """
        Raises:
            UserError: the loss became infinite or not a number.
        """
        try:
            super().run_step()
        except NonFiniteLoss as error:
            self._refuse_unlabelled(error.inputs)
            images = "; ".join(
                f"{i.get('image_id')} {i.get('expression', i.get('caption'))!r}"
                for i in error.inputs
            )
            last = next(iter(find_checkpoints(self.cfg.OUTPUT_DIR)), "none")
            raise UserError(
                f"iteration {self.iter}: the loss or its gradient is not finite ({error}); images: "
                f"{images}. The last good checkpoint is {last}. Try a smaller SOLVER.BASE_LR, "
                "SOLVER.CLIP_GRADIENTS.ENABLED True, or bf16 instead of fp16"
            ) from None

    def _refuse_unlabelled(self, inputs: list[dict[str, Any]]) -> None:
        """
        Raises:
            UserError: a batch of an iteration has no labelled pixel, so that its loss is no number.
        """
        ignored = self.cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE
        size = len(inputs) // self.cfg.SOLVER.GRADIENT_ACCUMULATION
        for batch in (inputs[i : i + size] for i in range(0, len(inputs), size)):
            if all("sem_seg" in i and bool((i["sem_seg"] == ignored).all()) for i in batch):
                names = ", ".join(str(i.get("file_name", i.get("image_id"))) for i in batch)
                raise UserError(
                    f"iteration {self.iter}: no pixel of the crops of {names} has a label, so that "
                    "there is nothing to learn from; larger crops (INPUT.CROP.SIZE) or batches "
                    "(SOLVER.IMS_PER_BATCH) have some, or take the images out of the data set"
                )

    # Detectron2 0.5 does not save the optimizer; 0.6 does, under this key.
    def state_dict(self) -> dict[str, Any]:
        return {**TrainerBase.state_dict(self), "_trainer": self._trainer.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        TrainerBase.load_state_dict(self, state_dict)
        self._trainer.load_state_dict(state_dict["_trainer"])

    @classmethod
    def build_optimizer(cls, cfg: CfgNode, model: nn.Module) -> Optimizer:
        return build_optimizer(cfg, model)

    @classmethod
    def build_lr_scheduler(cls, cfg: CfgNode, optimizer: Optimizer) -> LRScheduler:
        return build_scheduler(cfg, optimizer)

    @classmethod
    def build_train_loader(cls, cfg: CfgNode, start: int = 0) -> DataLoader:
        return build_train_loader(cfg, start)

    @classmethod
    def build_test_loader(cls, cfg: CfgNode, dataset_name: str) -> DataLoader:
        return build_test_loader(cfg, dataset_name)

    @classmethod
    def build_evaluator(cls, cfg: CfgNode, dataset_name: str) -> DatasetEvaluator:
        """The task's for a data set, those of tags, and a gallery; see `TEST` in the config."""
        task = get_task(cfg)
        evaluators = [*task.evaluators(dataset_name), *tag_evaluators(cfg, dataset_name)]
        if cfg.TEST.GALLERY_IMAGES:
            evaluators.append(Gallery(task, dataset_name))
        return DatasetEvaluators(evaluators)

    @classmethod
    def test(
        cls,
        cfg: CfgNode,
        model: nn.Module,
        evaluators: list[DatasetEvaluator] | None = None,
        final: bool = False,
    ) -> OrderedDict[str, Any]:
        """As Detectron2's, and writes `results.json`; always by data set.

        Args:
            final: test under `TEST.AUG`, too, if it is enabled; not for tests during training.
        """
        results = cls._test(cfg, model, evaluators)
        _report(cfg, model, results)
        if final and cfg.TEST.AUG.ENABLED:
            for dataset, sets in cls._test_augmented(cfg, model).items():
                results[dataset].update(sets)
            _report(cfg, model, results)
        return results

    @classmethod
    def _test(
        cls, cfg: CfgNode, model: nn.Module, evaluators: list[DatasetEvaluator] | None
    ) -> OrderedDict[str, Any]:
        results = super().test(cfg, model, evaluators)
        return (
            results if len(cfg.DATASETS.TEST) > 1 else OrderedDict({cfg.DATASETS.TEST[0]: results})
        )

    @classmethod
    def _test_augmented(cls, cfg: CfgNode, model: nn.Module) -> dict[str, dict[str, Any]]:
        """Metric sets under test-time augmentation, by their own names, by data set."""
        own = cfg.clone()
        own.defrost()
        own.OUTPUT_DIR = str(Path(cfg.OUTPUT_DIR, "augmented"))
        task = get_task(own)
        evaluators = [DatasetEvaluators(task.evaluators(name)) for name in cfg.DATASETS.TEST]
        # Detectron2 leaves a model in the mode of what is wrapped around it.
        augmented = task.augmentation()(own, model).train(model.training)
        names = {found.name: found.augmented.name for found in task.metric_sets}
        return {
            dataset: {names[name]: metrics for name, metrics in sets.items()}
            for dataset, sets in cls._test(cfg, augmented, evaluators).items()
        }


def _report(cfg: CfgNode, model: nn.Module, results: OrderedDict[str, Any]) -> None:
    if comm.is_main_process():
        log_table(results, get_task(cfg).measured())
        write_results(cfg, model, results)


def _check_draws(cfg: CfgNode, model: nn.Module) -> None:
    if cfg.VIS_PERIOD and not any(getattr(part, "vis_period", 0) for part in model.modules()):
        raise UserError(
            f"VIS_PERIOD is {cfg.VIS_PERIOD}, which does nothing here: {type(model).__name__} does "
            "not draw its training images; leave it at 0"
        )
