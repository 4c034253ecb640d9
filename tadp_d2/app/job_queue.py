"""Work that is done one after the other, whoever asks for it, and that can be cancelled."""

import secrets
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Hashable
from typing import Any

from tadp_d2.errors import UserError, reason

# Jobs that may wait, and seconds after which one that nobody asks about is dropped.
MOST_WAITING, PATIENCE = 20, 30.0

Step = Callable[[], None]


class Cancelled(Exception):
    """The job's visitor does not want it any more."""


class _Job:
    def __init__(self, kind: Hashable, work: Callable[[Step], Any]):
        self.kind, self.work = kind, work
        self.state, self.result, self.steps = "waiting", None, 0
        self.cancelled, self.asked = False, time.monotonic()

    def is_unwanted(self) -> bool:
        return self.cancelled or time.monotonic() - self.asked > PATIENCE

    def step(self) -> None:
        """
        Raises:
            Cancelled: nobody wants the job.
        """
        if self.is_unwanted():
            raise Cancelled
        self.steps += 1


class JobQueue:
    """One thread that does the jobs of all visitors in their order."""

    def __init__(self) -> None:
        self._jobs: dict[str, _Job] = {}
        self._waiting: deque[_Job] = deque()
        self._changed = threading.Condition()
        # Kind of job -> the steps of the last one that was finished.
        self._lengths: dict[Hashable, int] = {}
        self._closed = False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def add(self, kind: Hashable, work: Callable[[Step], Any]) -> str:
        """
        Args:
            kind: jobs of a kind have about as many steps.
            work: gets what it must call at each step.

        Returns:
            The number by which `report` and `cancel` know the job.

        Raises:
            UserError: too many are waiting.
        """
        with self._changed:
            for number in [n for n, job in self._jobs.items() if job.is_unwanted()]:
                del self._jobs[number]
            if sum(not job.is_unwanted() for job in self._waiting) >= MOST_WAITING:
                raise UserError(f"{MOST_WAITING} predictions are waiting: try again in a minute")
            number, job = secrets.token_hex(16), _Job(kind, work)
            self._jobs[number] = job
            self._waiting.append(job)
            self._changed.notify()
        return number

    def report(self, number: str) -> dict[str, Any]:
        """The "state" of a job: "waiting", with those "ahead"; "running", with the share that is
        "done" or None where that is not known; "done" with its "result"; "failed" with its
        "message"; or "cancelled".
        """
        with self._changed:
            job = self._jobs.get(number)
            if job is None or job.cancelled:
                return {"state": "cancelled"}
            job.asked = time.monotonic()
            if job.state == "waiting":
                ahead = sum(
                    not job.is_unwanted() for job in list(self._waiting)[: self._place(job)]
                )
                running = any(other.state == "running" for other in self._jobs.values())
                return {"state": "waiting", "ahead": ahead + running}
            if job.state == "running":
                known = self._lengths.get(job.kind)
                return {"state": "running", "done": known and min(1.0, job.steps / known)}
            return {
                "state": job.state,
                ("result" if job.state == "done" else "message"): job.result,
            }

    def _place(self, job: _Job) -> int:
        return self._waiting.index(job) if job in self._waiting else 0

    def cancel(self, number: str) -> None:
        """Ends a job before it begins, or at its next step."""
        with self._changed:
            if job := self._jobs.get(number):
                job.cancelled = True

    def close(self) -> None:
        """Cancels all jobs and waits for the one that is at work."""
        with self._changed:
            self._closed = True
            for job in self._jobs.values():
                job.cancelled = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closed)
                if self._closed:
                    return
                job = self._waiting.popleft()
                job.state = "running"
            self._do(job)

    def _do(self, job: _Job) -> None:
        try:
            job.step()
            result = job.work(job.step)
            self._lengths[job.kind] = job.steps
            state = "done"
        except Cancelled:
            job.cancelled, job.state = True, "cancelled"
            return
        except Exception as error:  # the next job must not suffer
            state, result = "failed", reason(error)
            if not isinstance(error, UserError):
                traceback.print_exc()
        with self._changed:
            job.state, job.result = state, result
