import json
import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest

from tadp_d2.errors import UserError
from tadp_d2.study.jobs import Job, run_jobs


def square(number, log):
    with open(log, "a") as file:
        file.write(f"{number}\n")
    if number < 0:
        raise UserError(f"{number} is negative")
    return {"square": number**2}


def die(**arguments):
    os._exit(9)


def make_jobs(folder, numbers, **made_of):
    arguments = [{"number": n, "log": str(folder / "log")} for n in numbers]
    return [
        Job(folder / "results" / f"{a['number']}.json", square, a, {**made_of, "n": a["number"]})
        for a in arguments
    ]


def test_results_come_in_order_and_are_made_once(tmp_path):
    jobs = make_jobs(tmp_path, [3, 1, 2])
    seen = []
    results = run_jobs(jobs[:2], processes=2, progress=lambda *counts: seen.append(counts))
    assert results == [{"square": 9}, {"square": 1}]
    assert seen == [(1, 2), (2, 2)]
    assert run_jobs(jobs) == [{"square": 9}, {"square": 1}, {"square": 4}]
    assert sorted((tmp_path / "log").read_text().split()) == ["1", "2", "3"]


def test_a_process_that_is_ended_from_outside_is_told(tmp_path):
    job = Job(tmp_path / "0.json", die, {}, {})
    with pytest.raises(UserError, match="ended from outside.*fewer --processes"):
        run_jobs([job], processes=1)


def test_what_fails_leaves_the_others(tmp_path):
    with pytest.raises(UserError, match="-1 is negative"):
        run_jobs(make_jobs(tmp_path, [5, -1]))
    assert json.loads((tmp_path / "results" / "5.json").read_text())["result"] == {"square": 25}
    assert not (tmp_path / "results" / "-1.json").exists()


def test_results_of_something_else_are_refused(tmp_path, in_this_process):
    run_jobs(make_jobs(tmp_path, [2], model="a"))
    with pytest.raises(UserError, match="made of something else"):
        run_jobs(make_jobs(tmp_path, [2, 3], model="b"))
    assert not (tmp_path / "results" / "3.json").exists()
    (tmp_path / "results" / "2.json").write_text("[]")
    with pytest.raises(UserError, match="is no result of a study"):
        run_jobs(make_jobs(tmp_path, [2], model="a"))


def wait(file):
    Path(file).write_text(str(os.getpid()))
    time.sleep(60)


def run_waiting(file):
    run_jobs([Job(Path(f"{file}.json"), wait, {"file": file}, {})])


def ends(condition, seconds=30):
    for _ in range(seconds * 20):
        if condition():
            return True
        time.sleep(0.05)
    return False


def test_who_is_killed_leaves_no_process_behind(tmp_path):
    file = tmp_path / "pid"
    runner = multiprocessing.get_context("spawn").Process(target=run_waiting, args=(str(file),))
    runner.start()
    assert ends(lambda: file.exists() and file.read_text())
    worker = Path("/proc") / file.read_text()
    assert worker.exists()
    os.kill(runner.pid, signal.SIGKILL)
    runner.join()
    assert ends(lambda: not worker.exists() or " Z " in (worker / "stat").read_text())
