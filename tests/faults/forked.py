"""Runs commands quickly: each in a fork of a process that has imported what all of them import."""

import json
import os
import runpy
import signal
import subprocess
import sys
import traceback
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
# Seconds after which a command counts as hanging.
LIMIT = 60


class Result(NamedTuple):
    """How a command ended."""

    code: int
    stdout: str
    stderr: str


class ForkedCommands:
    """The process that is forked; a context manager."""

    def __init__(self, folder: Path, **environment: str):
        """
        Args:
            folder: an existing one, for what commands print.
            environment: on top of this process's.
        """
        self._outputs = [folder / "stdout", folder / "stderr"]
        self._process = subprocess.Popen(
            [sys.executable, __file__, *map(str, self._outputs)],
            cwd=ROOT,
            # Threads of a library do not survive a fork.
            env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> "ForkedCommands":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()

    def run(self, program: str, *arguments: str) -> Result:
        """Runs `train_net.py` or `tadp-d2`."""
        self._process.stdin.write(json.dumps([program, *map(str, arguments)]) + "\n")
        self._process.stdin.flush()
        code = int(self._process.stdout.readline())
        return Result(code, *(path.read_text() for path in self._outputs))


def _serve(stdout: str, stderr: str) -> None:
    # What the commands import.
    import tadp_d2.cli
    import tadp_d2.doctor.examine  # noqa: F401
    import train_net  # noqa: F401
    from tadp_d2.synthetic import diffusion_model
    from tadp_d2.text.conditioning import TextConditioner

    # transformers prepares itself when it loads its first model.
    TextConditioner.from_pretrained(Path(diffusion_model.__file__).parent / "stable_diffusion")

    for line in sys.stdin:
        child = os.fork()
        if not child:
            for path, descriptor in ((stdout, 1), (stderr, 2)):
                os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), descriptor)
            os._exit(_run(*json.loads(line)))
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


def _run(program: str, *arguments: str) -> int:
    signal.alarm(LIMIT)
    sys.argv = [program, *arguments]
    code = 0
    try:
        if program == "tadp-d2":
            from tadp_d2.cli import main

            main()
        else:
            runpy.run_path(program, run_name="__main__")
    except SystemExit as stop:
        code = stop.code or 0
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    return code


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    _serve(*sys.argv[1:])
