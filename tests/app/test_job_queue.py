"""Jobs are done in their order, by one thread; what is not wanted is not done."""

import threading

import pytest

from tadp_d2.app import job_queue
from tadp_d2.app.job_queue import JobQueue
from tadp_d2.errors import UserError


@pytest.fixture
def jobs():
    jobs = JobQueue()
    yield jobs
    jobs.close()


class Held:
    """A job that begins, waits to be released, and then makes steps."""

    def __init__(self, steps=1):
        self.begun, self.released, self.steps = threading.Event(), threading.Event(), steps

    def __call__(self, step):
        self.begun.set()
        assert self.released.wait(60)
        for _ in range(self.steps):
            step()
        return "result"


def finish(jobs):
    """Waits until all that was added is done."""
    end = threading.Event()
    jobs.add("last", lambda step: end.set())
    assert end.wait(60)


def test_visitors_wait_their_turn_and_a_cancelled_job_is_skipped(jobs):
    done, first = [], Held()
    numbers = [jobs.add("a", first)]
    numbers += [jobs.add("a", lambda step, n=n: done.append(n)) for n in (1, 2, 3)]
    assert first.begun.wait(60)
    assert jobs.report(numbers[0]) == {"state": "running", "done": None}
    assert jobs.report(numbers[3]) == {"state": "waiting", "ahead": 3}
    jobs.cancel(numbers[2])
    assert jobs.report(numbers[3]) == {"state": "waiting", "ahead": 2}
    first.released.set()
    finish(jobs)
    assert done == [1, 3]
    assert jobs.report(numbers[0]) == {"state": "done", "result": "result"}
    assert jobs.report(numbers[2]) == jobs.report("no number") == {"state": "cancelled"}


def test_progress_is_the_share_of_the_steps_of_the_last_job_of_its_kind(jobs):
    one = Held(steps=3)
    one.released.set()
    jobs.add("kind", one)
    finish(jobs)
    seen = []

    def work(step):
        seen.append(jobs.report(number)["done"])
        step()
        seen.append(jobs.report(number)["done"])

    ready = Held()
    jobs.add("other", ready)
    number = jobs.add("kind", work)
    ready.released.set()
    finish(jobs)
    assert seen == [1 / 4, 2 / 4]  # the beginning is a step too


def test_a_running_job_ends_at_its_next_step(jobs):
    job = Held()
    number = jobs.add("a", job)
    assert job.begun.wait(60)
    jobs.cancel(number)
    job.released.set()
    finish(jobs)
    assert jobs.report(number) == {"state": "cancelled"}


def test_an_error_reaches_its_visitor_and_not_the_next_one(jobs, capsys):
    def fail(error):
        def work(step):
            raise error

        return jobs.add("a", work)

    known, unknown = fail(UserError("shorten it")), fail(ValueError("a bug"))
    finish(jobs)
    assert jobs.report(known) == {"state": "failed", "message": "shorten it"}
    assert jobs.report(unknown) == {"state": "failed", "message": "a bug"}
    assert "ValueError: a bug" in capsys.readouterr().err


def test_a_job_that_nobody_asks_about_is_dropped(jobs):
    first, done = Held(), []
    jobs.add("a", first)
    assert first.begun.wait(60)
    left, asked = (jobs.add("a", lambda step, n=n: done.append(n)) for n in (1, 2))
    jobs._jobs[left].asked -= job_queue.PATIENCE
    first.released.set()
    finish(jobs)
    assert done == [2]
    assert jobs.report(left)["state"] == "cancelled"
    assert jobs.report(asked)["state"] == "done"


def test_too_many_are_refused(jobs, monkeypatch):
    monkeypatch.setattr(job_queue, "MOST_WAITING", 2)
    first = Held()
    jobs.add("a", first)
    assert first.begun.wait(60)
    numbers = [jobs.add("a", lambda step: None) for _ in range(2)]
    with pytest.raises(UserError, match="2 predictions are waiting"):
        jobs.add("a", lambda step: None)
    jobs.cancel(numbers[0])
    jobs.add("a", lambda step: None)
    first.released.set()
