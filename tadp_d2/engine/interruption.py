"""Stopping a run at any moment, and catching up on what the stop cut off."""

import contextlib
import logging
import os
import signal
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any, NoReturn

from detectron2.engine import HookBase
from detectron2.engine.hooks import PeriodicWriter
from detectron2.utils import comm

from tadp_d2.data.batches import end_workers
from tadp_d2.files import saving

_logger = logging.getLogger(__name__)

# Launchers pass signals on, so that one may come several times. One that comes again after so many
# seconds ends the process at once.
_REPEATED = 3.0
# Seconds that an iteration is waited for whose data do not come.
_PATIENCE = 5.0


class SaveOnSignal(HookBase):
    """Saves a checkpoint after the iteration in which Ctrl-C or SIGTERM came, and exits.

    SIGTERM is how schedulers announce the end. All processes stop after the same iteration,
    whichever of them got the signal. An iteration whose data do not come is given up, and so is an
    evaluation, where there is one process. Where a checkpoint is made of what all processes hold,
    an iteration that is given up leaves the last checkpoint as it is.
    """

    SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self, waited: Callable[[], float], divided: bool = False):
        """
        Args:
            waited: seconds that the present iteration has been waiting for data.
            divided: whether no process can save without the others.
        """
        self._waited = waited
        self._divided = divided
        self._evaluates = False
        self._previous: dict[signal.Signals, Any] = {}

    @contextlib.contextmanager
    def evaluating(self) -> Iterator[None]:
        """For the time of an evaluation, before which an iteration has been finished."""
        self._evaluates = True
        try:
            yield
        finally:
            self._evaluates = False

    def before_train(self) -> None:
        self._process, self._received, self._when = os.getpid(), 0, 0.0
        self._previous = {number: signal.signal(number, self._receive) for number in self.SIGNALS}
        self._previous[signal.SIGALRM] = signal.signal(signal.SIGALRM, self._look)

    def after_train(self) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def after_step(self) -> None:
        received = max(comm.all_gather(self._received))
        if received:
            self._received = received
            self._save(self.trainer.iter)
            comm.synchronize()
            self._exit()

    def _receive(self, number: int, frame: FrameType | None) -> None:
        # A process that was forked from this one is not the run.
        if os.getpid() != self._process:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        if not self._received:
            self._received, self._when = number, time.monotonic()
            _logger.info(f"{signal.Signals(number).name}: stopping after this iteration")
            signal.setitimer(signal.ITIMER_REAL, 1, 1)
        elif time.monotonic() - self._when > _REPEATED:
            end_workers()
            raise SystemExit(128 + number)

    def _look(self, number: int, frame: FrameType | None) -> None:
        """Stops now what would not end soon; called every second."""
        if self._waited() > _PATIENCE:
            if self._divided:
                self._give_up()
            self._save(self.trainer.iter - 1)
            self._exit()
        if self._evaluates and comm.get_world_size() == 1:
            self._save(self.trainer.iter)
            self._exit()

    def _save(self, last: int) -> None:
        """
        Args:
            last: the iteration that was finished last; -1 for none.
        """
        signal.setitimer(signal.ITIMER_REAL, 0)
        # It is in the checkpoint, too.
        self.trainer.iter = last
        if last >= 0:
            self.trainer.checkpointer.save(f"model_{last:07d}", iteration=last)

    def _give_up(self) -> NoReturn:
        signal.setitimer(signal.ITIMER_REAL, 0)
        end_workers()
        _logger.warning(
            "Stopped without a new checkpoint, which needs all processes: one waits for data; "
            "--resume continues from the last one"
        )
        raise SystemExit(128 + self._received)

    def _exit(self) -> NoReturn:
        done = self.trainer.iter + 1
        end_workers()
        _logger.info(f"Stopped after {done} iterations; --resume continues the run")
        raise SystemExit(128 + self._received)


class CatchUpEvaluation(HookBase):
    """Makes the evaluation that was due when a run was stopped, before the run goes on."""

    def __init__(self, evaluation: HookBase, is_missing: Callable[[int], bool]):
        """
        Args:
            evaluation: Detectron2's `EvalHook`.
            is_missing: whether there is no evaluation of an iteration yet.
        """
        self._evaluation = evaluation
        self._is_missing = is_missing

    def before_train(self) -> None:
        start = self.trainer.start_iter
        if not start or not any(comm.all_gather(self._is_missing(start - 1))):
            return
        self.trainer.iter = self.trainer.storage.iter = start - 1
        self._evaluation.after_step()  # evaluates if the iteration is one to evaluate after
        self.trainer.iter = self.trainer.storage.iter = start


class ResumableWriter(PeriodicWriter):
    """Detectron2's writing of metrics; a full disk is a message with the way to continue."""

    def after_step(self) -> None:
        with saving(self.trainer.cfg.OUTPUT_DIR):
            super().after_step()

    def after_train(self) -> None:
        with saving(self.trainer.cfg.OUTPUT_DIR):
            super().after_train()
