"""Ends a training run cleanly on Ctrl-C, and on SIGTERM, with which schedulers announce the end."""

import logging
import signal
from types import FrameType

from detectron2.engine import HookBase

_logger = logging.getLogger(__name__)


class SaveOnSignal(HookBase):
    """Saves a checkpoint at the end of the iteration in which a signal came, and exits.

    It goes directly behind the periodic checkpointer: outside of an iteration, as during an
    evaluation, it saves at once. A second signal ends the run without saving.
    """

    SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def before_train(self) -> None:
        self._received, self._in_step = 0, False
        self._previous = {number: signal.getsignal(number) for number in self.SIGNALS}
        for number in self.SIGNALS:
            signal.signal(number, self._receive)

    def after_train(self) -> None:
        self._restore()

    def before_step(self) -> None:
        self._in_step = True

    def after_step(self) -> None:
        self._in_step = False
        if self._received:
            self._save_and_exit()

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self._received = number
        self._restore()
        if not self._in_step:
            self._save_and_exit()
        _logger.info(f"{signal.Signals(number).name}: saving after this iteration")

    def _save_and_exit(self) -> None:
        done = self.trainer.iter + 1
        self.trainer.checkpointer.save(
            f"model_{self.trainer.iter:07d}", iteration=self.trainer.iter
        )
        _logger.info(f"Stopped after {done} iterations; --resume continues the run")
        raise SystemExit(128 + self._received)

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
