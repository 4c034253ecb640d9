"""Independent jobs, each of which leaves one file: stopped and started again, those missing run."""

import json
import multiprocessing
import os
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tadp_d2.errors import UserError
from tadp_d2.files import replacing


@dataclass(frozen=True)
class Job:
    """A result and how it is made.

    Attributes:
        file: where the result is kept, as JSON.
        function: makes it; can be pickled.
        arguments: of the function, by name; can be pickled.
        made_of: what decides on the result, in terms of JSON; kept beside it.
    """

    file: Path
    function: Callable[..., Any]
    arguments: Mapping[str, Any]
    made_of: Mapping[str, Any]


def run_jobs(
    jobs: Sequence[Job],
    processes: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> list[Any]:
    """The results of jobs, in their order, made by several processes of one thread each.

    One thread, so that the numbers do not depend on how many run at once.

    Args:
        progress: called with the number of jobs done and to be done; not for those done before.

    Raises:
        UserError: that of a job; or the file of one is damaged, or was made of something else.
    """
    missing = [job for job in jobs if not job.file.exists()]
    for job in jobs:
        if job.file.exists():
            _read(job)
    # A fresh interpreter each: torch's threads do not survive a fork.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, context, initializer=_prepare) as pool:
        running = [pool.submit(_run, job) for job in missing]
        try:
            for done, future in enumerate(as_completed(running), start=1):
                future.result()
                if progress:
                    progress(done, len(missing))
        except BrokenProcessPool:
            raise UserError(
                f"a process of the study was ended from outside, perhaps because the {processes} "
                "had too little memory; the same command goes on, with fewer --processes"
            ) from None
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return [_read(job) for job in jobs]


def _prepare() -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(1)
    # Their own lines of progress would mix; errors come back as exceptions.
    sys.stderr = open(os.devnull, "w")  # noqa: SIM115, open as long as the process


def _end_with_parent() -> None:
    """A process that is killed sends nothing to its children: they would wait for jobs forever."""
    multiprocessing.parent_process().join()
    os._exit(1)


def _run(job: Job) -> None:
    result = {"made_of": job.made_of, "result": job.function(**job.arguments)}
    job.file.parent.mkdir(parents=True, exist_ok=True)
    with replacing(job.file) as temporary:
        temporary.write_text(json.dumps(result, indent=1) + "\n", "utf-8")


def _read(job: Job) -> Any:
    try:
        data = json.loads(job.file.read_text("utf-8-sig"))
        made_of, result = data["made_of"], data["result"]
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(f"{job.file}: is no result of a study; move it away") from None
    if made_of != json.loads(json.dumps(job.made_of)):
        raise UserError(
            f"{job.file} was made of something else ({made_of}, now {job.made_of}): choose another "
            "folder with --output, or remove it"
        )
    return result
