"""How a command ends on wrong input."""

import pytest
import torch
from torch.utils.data import DataLoader

from tadp_d2.errors import UserError, exit_on_user_error


def test_message_alone_on_stderr_and_exit_code_2(capsys):
    with pytest.raises(SystemExit) as stop, exit_on_user_error():
        raise UserError("no such thing: make one")
    assert stop.value.code == 2
    assert capsys.readouterr().err == "error: no such thing: make one\n"


def _fail(rank):
    raise UserError("one message")


def test_an_error_in_a_process_of_a_distributed_run_keeps_its_one_message(capsys):
    with pytest.raises(SystemExit) as stop, exit_on_user_error():
        torch.multiprocessing.spawn(_fail, nprocs=1)
    assert stop.value.code == 2
    assert capsys.readouterr().err.splitlines()[-1] == "error: one message"


def test_other_errors_pass_through():
    with pytest.raises(ZeroDivisionError), exit_on_user_error():
        1 / 0  # noqa: B018


class _Failing:
    def __len__(self):
        return 1

    def __getitem__(self, index):
        raise UserError("picture.jpg: cannot be read")


def test_an_error_in_a_loader_worker_keeps_its_one_message():
    with pytest.raises(UserError) as error:
        next(iter(DataLoader(_Failing(), num_workers=1)))
    assert str(error.value) == "picture.jpg: cannot be read"
