"""Independent jobs on all cores."""

import contextlib
import itertools
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any

# Fewer jobs are done before other processes have started.
_FEW = 100


def in_processes(
    function: Callable, jobs: Sequence[tuple], progress: Callable[[int, int], None] | None = None
) -> list[Any]:
    """The results of `function(*job)`, in the order of the jobs.

    Args:
        function: can be pickled.
        progress: called with the number of jobs done and to be done.
    """
    results = []
    with contextlib.ExitStack() as stack:
        if len(jobs) < _FEW:
            outcomes = itertools.starmap(function, jobs)
        else:
            pool = stack.enter_context(ProcessPoolExecutor())
            outcomes = pool.map(function, *zip(*jobs, strict=True), chunksize=4)
        for result in outcomes:
            results.append(result)
            if progress:
                progress(len(results), len(jobs))
    return results
