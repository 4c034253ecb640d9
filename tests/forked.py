"""Runs commands quickly: each in a fork of a process that has imported what all of them import."""

import gc
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
    """How a command ended; the negative number of the signal if one ended it."""

    code: int
    stdout: str
    stderr: str


class ForkedCommands:
    """The process that is forked; a context manager."""

    def __init__(self, folder: Path, datasets: Path):
        """
        Args:
            folder: an existing one, for what commands print.
            datasets: the root of the data sets, unless a command has another one.
        """
        self._folder = folder
        self._datasets = datasets
        # Detectron2 reads its value when it is imported; where it leads to may change.
        self._root = folder / "datasets"
        self._started = 0
        self._process = subprocess.Popen(
            [sys.executable, __file__],
            cwd=ROOT,
            # Threads of a library do not survive a fork.
            env={**os.environ, "OMP_NUM_THREADS": "1", "DETECTRON2_DATASETS": str(self._root)},
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

    def start(
        self,
        *commands: Sequence[object],
        limit: int = 300,
        datasets: Path | None = None,
        **environment: str,
    ) -> "Forked":
        """Starts commands, `train_net.py ...` or `tadp-d2 ...`, one after another in one fork.

        Args:
            limit: seconds after which they count as hanging.
            datasets: the root of the data sets. Those that run at the same time share it.
            environment: on top of this process's.
        """
        self._root.unlink(missing_ok=True)
        self._root.symlink_to((datasets or self._datasets).absolute())
        self._started += 1
        folder = self._folder / str(self._started)
        folder.mkdir()
        arguments = [list(map(str, command)) for command in commands]
        pid = self.ask("start", str(folder), arguments, limit, environment)
        return Forked(self, pid, folder, len(arguments))

    def run(self, *commands: Sequence[object], **options: object) -> list[Result]:
        """The results of commands, as `start` takes them."""
        return self.start(*commands, **options).results()

    def ask(self, *request: object) -> int | None:
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())


class Forked:
    """Commands that run, in a process and a session of their own.

    Attributes:
        pid: of process and session.
    """

    def __init__(self, server: ForkedCommands, pid: int, folder: Path, number: int):
        self.pid = pid
        self._server = server
        self._folder = folder
        self._number = number
        self._code: int | None = None

    def poll(self) -> int | None:
        """None while they run; then 0, or the negative number of the signal that ended them."""
        if self._code is None:
            self._code = self._server.ask("poll", self.pid)
        return self._code

    def results(self) -> list[Result]:
        """Waits for the end of all commands."""
        if self._code is None:
            self._code = self._server.ask("wait", self.pid)
        assert self._code != -signal.SIGALRM, f"took too long: {self.printed()}"
        file = self._folder / "codes"
        # A signal leaves none for the commands that it ended.
        codes = json.loads(file.read_text()) if self._code == 0 else [self._code] * self._number
        return [
            Result(code, *(path.read_text() for path in _outputs(self._folder, number)))
            for number, code in enumerate(codes)
        ]

    def printed(self) -> str:
        """What the first command has printed until now."""
        files = _outputs(self._folder, 0)
        return "".join(path.read_text() for path in files if path.exists())


def _outputs(folder: Path, number: int) -> tuple[Path, Path]:
    return folder / f"stdout{number}", folder / f"stderr{number}"


def _serve() -> None:
    # What the commands import.
    import tadp_d2.cli
    import tadp_d2.doctor.examine
    import tadp_d2.engine.run  # noqa: F401
    from tadp_d2.diffusion.clip_text import TextEncoder
    from tadp_d2.synthetic import tiny_diffusion

    # transformers prepares itself when it loads its first model.
    TextEncoder.from_pretrained(Path(tiny_diffusion.__file__).parent / "stable_diffusion")

    # No fork looks for garbage among what is here, or copies it by counting it.
    gc.freeze()
    for line in sys.stdin:
        what, *request = json.loads(line)
        if what == "start":
            answer = os.fork()
            if not answer:
                _run_all(*request)
        else:
            pid, status = os.waitpid(*request, os.WNOHANG if what == "poll" else 0)
            answer = os.waitstatus_to_exitcode(status) if pid else None
        print(json.dumps(answer), flush=True)
    os._exit(0)  # quicker than to take all modules down


def _run_all(
    folder: str, commands: list[list[str]], limit: int, environment: dict[str, str]
) -> None:
    os.setsid()
    signal.alarm(limit)
    os.environ.update(environment)
    # Which a process reads when it starts.
    if encoding := environment.get("PYTHONIOENCODING"):
        sys.stdout.reconfigure(encoding=encoding)
        sys.stderr.reconfigure(encoding=encoding)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    codes = []
    for number, command in enumerate(commands):
        for path, descriptor in zip(_outputs(Path(folder), number), (1, 2), strict=True):
            os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), descriptor)
        codes.append(_run(*command))
    Path(folder, "codes").write_text(json.dumps(codes))
    os._exit(0)


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
    _serve()
