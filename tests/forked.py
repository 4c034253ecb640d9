"""Runs commands quickly: each in a fork of a process that has imported what all of them import."""

import json
import os
import runpy
import signal
import subprocess
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]


class Result(NamedTuple):
    """How a command ended."""

    code: int
    stdout: str
    stderr: str


class ForkedCommands:
    """The process that is forked; a context manager."""

    def __init__(self, folder: Path, limit: int = 60, **environment: str):
        """
        Args:
            folder: an existing one, for what commands print.
            limit: seconds after which commands count as hanging.
            environment: on top of this process's.
        """
        self._folder = folder
        self._limit = limit
        self._process = subprocess.Popen(
            [sys.executable, __file__, str(folder), str(limit)],
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

    def run(self, *commands: Sequence[object]) -> list[Result]:
        """Runs commands, `train_net.py ...` or `tadp-d2 ...`, one after another in one fork."""
        arguments = [list(map(str, command)) for command in commands]
        self._process.stdin.write(json.dumps(arguments) + "\n")
        self._process.stdin.flush()
        code = int(self._process.stdout.readline())
        assert code == 0, (
            f"killed: {commands} took longer than {self._limit} s" if code < 0 else code
        )
        codes = json.loads((self._folder / "codes").read_text())
        return [
            Result(code, *(path.read_text() for path in _outputs(self._folder, number)))
            for number, code in enumerate(codes)
        ]


def _outputs(folder: Path, number: int) -> tuple[Path, Path]:
    return folder / f"stdout{number}", folder / f"stderr{number}"


def _serve(folder: Path, limit: int) -> None:
    # What the commands import.
    import tadp_d2.cli
    import tadp_d2.doctor.examine
    import tadp_d2.engine.run  # noqa: F401
    from tadp_d2.diffusion.clip_text import TextEncoder
    from tadp_d2.synthetic import tiny_diffusion

    # transformers prepares itself when it loads its first model.
    TextEncoder.from_pretrained(Path(tiny_diffusion.__file__).parent / "stable_diffusion")

    for line in sys.stdin:
        child = os.fork()
        if not child:
            signal.alarm(limit)
            codes = []
            for number, command in enumerate(json.loads(line)):
                for path, descriptor in zip(_outputs(folder, number), (1, 2), strict=True):
                    os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), descriptor)
                codes.append(_run(*command))
            (folder / "codes").write_text(json.dumps(codes))
            os._exit(0)
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


def _run(program: str, *arguments: str) -> int:
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
    _serve(Path(sys.argv[1]), int(sys.argv[2]))
