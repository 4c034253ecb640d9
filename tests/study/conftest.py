from concurrent.futures import Executor, Future

import pytest


class _Here(Executor):
    """Runs at once what it is given."""

    def __init__(self, *_, **__):
        pass

    def submit(self, function, *arguments):
        future = Future()
        try:
            future.set_result(function(*arguments))
        except Exception as error:
            future.set_exception(error)
        return future


@pytest.fixture
def in_this_process(monkeypatch):
    """Jobs run in no process of their own, which would know nothing of what a test changes."""
    monkeypatch.setattr("tadp_d2.study.jobs.ProcessPoolExecutor", _Here)
