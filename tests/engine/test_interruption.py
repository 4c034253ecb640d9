"""What stops a run says how it goes on."""

import errno
import os
import signal
import time
from types import SimpleNamespace

import pytest
from detectron2.engine import HookBase
from detectron2.engine.hooks import EvalHook
from detectron2.utils.events import EventWriter

from tadp_d2.engine.interruption import ResumableWriter, SaveOnSignal
from tadp_d2.engine.trainer import Trainer
from tadp_d2.errors import UserError


class _FullDisk(EventWriter):
    def write(self):
        raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("moment", ["after_step", "after_train"])
def test_a_full_disk_under_the_metrics_is_a_message(moment):
    hook = ResumableWriter([_FullDisk()], period=1)
    config = SimpleNamespace(OUTPUT_DIR="out")
    hook.trainer = SimpleNamespace(iter=0, max_iter=5, cfg=config)
    with pytest.raises(UserError, match="out: cannot be written .*No space left.*--resume"):
        getattr(hook, moment)()


@pytest.fixture
def stopping(monkeypatch):
    """stopping(waited, ...) is the hook of a run in its sixth iteration."""
    hooks = []

    def make(waited, **options):
        hook = SaveOnSignal(waited, **options)
        saved = []
        checkpointer = SimpleNamespace(save=lambda name, iteration: saved.append((name, iteration)))
        hook.trainer = SimpleNamespace(iter=5, checkpointer=checkpointer, saved=saved)
        hook.before_train()
        hooks.append(hook)
        return hook

    yield make
    for hook in hooks:
        hook.after_train()


def interrupted(number):
    """Sends a signal to this process and waits for what comes of it."""
    with pytest.raises(SystemExit) as ended:
        os.kill(os.getpid(), number)
        while True:
            time.sleep(0.1)
    return ended.value.code


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_iteration_whose_data_do_not_come_is_given_up(stopping, number):
    hook = stopping(lambda: 60)
    assert interrupted(number) == 128 + number
    assert hook.trainer.saved == [("model_0000004", 4)] and hook.trainer.iter == 4


def test_of_many_processes_that_save_together_one_that_waits_saves_nothing(stopping, caplog):
    hook = stopping(lambda: 60, divided=True)
    assert interrupted(signal.SIGTERM) == 128 + signal.SIGTERM
    assert not hook.trainer.saved and "without a new checkpoint" in caplog.text


def test_an_evaluation_is_given_up(stopping):
    hook = stopping(lambda: 0)
    with hook.evaluating():
        assert interrupted(signal.SIGTERM) == 128 + signal.SIGTERM
    assert hook.trainer.saved == [("model_0000005", 5)]


def test_an_iteration_that_computes_is_finished(stopping):
    hook = stopping(lambda: 0)
    os.kill(os.getpid(), signal.SIGTERM)
    hook._look(signal.SIGALRM, None)
    assert not hook.trainer.saved
    with pytest.raises(SystemExit):
        hook.after_step()
    assert hook.trainer.saved == [("model_0000005", 5)]


def test_a_run_without_a_finished_iteration_saves_nothing(stopping):
    hook = stopping(lambda: 60)
    hook.trainer.iter = 0
    interrupted(signal.SIGTERM)
    assert not hook.trainer.saved


def test_after_an_error_nothing_is_evaluated_and_no_other_error_hides_it(caplog):
    class Broken(HookBase):
        def after_train(self):
            raise UserError("the second error")

    called = []
    evaluation = EvalHook(0, lambda: called.append("evaluated"))
    last = HookBase()
    last.after_train = lambda: called.append("tidied up")
    trainer = Trainer.__new__(Trainer)
    trainer.iter, trainer.max_iter, trainer.storage = 9, 10, SimpleNamespace()
    trainer._hooks = [Broken(), evaluation, last]
    evaluation.trainer = trainer
    trainer.after_train()
    assert called == ["tidied up"] and "the second error" in caplog.text
