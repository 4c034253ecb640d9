"""One process or many, on GPUs (NCCL) or on CPUs (gloo): torchrun's environment is read here alone.

Many are always torchrun's: `--num-gpus N` starts them in the same way.
"""

import argparse
import logging
import os
import signal
import sys
from collections.abc import Callable
from typing import Any, TypeAlias
from urllib.parse import urlsplit

import torch
from detectron2.utils import comm
from torch import distributed
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.run import parse_args, run

from tadp_d2.errors import UserError

_logger = logging.getLogger(__name__)

Main: TypeAlias = Callable[[argparse.Namespace], Any]

_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")

# Where the first process that fails leaves its number; None in a run of one process.
_failures: distributed.Store | None = None


def launch(main: Main, args: argparse.Namespace) -> None:
    """Runs `main(args)` in this process: alone, or as one of those that torchrun started.

    With `--num-gpus` or `--num-machines` above one, starts that many processes of this script
    instead and waits for them. Whichever process fails, all end, and the first one alone reports
    why.

    Raises:
        UserError: `main` raised it and no other process failed before, or the processes cannot be
            set up as asked for.
        SystemExit: another process failed before, or a process that was started here.
    """
    if "LOCAL_RANK" in os.environ:
        _run_as_one_of_many(main, args)
    elif args.num_gpus * args.num_machines > 1:
        _start_processes(args)
    else:
        main(args)


def is_first_failure() -> bool:
    """Whether no other process of the run failed before. For a process that fails now."""
    if _failures is None:
        return True
    own = str(comm.get_rank())
    # torchrun may start failed processes again.
    key = f"tadp_d2/failed/{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}"
    try:
        return _failures.compare_set(key, "", own).decode() == own
    except RuntimeError:  # the process or machine that keeps it is gone
        return False


def _run_as_one_of_many(main: Main, args: argparse.Namespace) -> None:
    try:
        _join()
        main(args)
    except Exception as error:
        if is_first_failure():
            raise
        _logger.info(f"Ends because another process of the run failed ({type(error).__name__})")
        sys.exit(2 if isinstance(error, UserError) else 1)
    distributed.destroy_process_group()


def _join() -> None:
    """Makes this process one of the run's, and its GPU the current one."""
    # Here, because the process that starts the others should not wait for it.
    from detectron2.engine import DEFAULT_TIMEOUT

    global _failures
    missing = [name for name in _VARIABLES if name not in os.environ]
    if missing:
        raise UserError(f"LOCAL_RANK is set but not {', '.join(missing)}: start with torchrun")
    local_rank, local_size = int(os.environ["LOCAL_RANK"]), int(os.environ["LOCAL_WORLD_SIZE"])
    gpus = torch.cuda.device_count()
    # As patient as Detectron2's launcher: all wait while one evaluates.
    distributed.init_process_group("nccl" if gpus else "gloo", timeout=DEFAULT_TIMEOUT)
    _failures = distributed.TCPStore(
        os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False
    )
    if gpus:
        if local_size > gpus:
            raise UserError(f"{local_size} processes on a machine with {gpus} GPUs: one each")
        torch.cuda.set_device(local_rank)
    _make_local_group(local_size)


def _make_local_group(size: int) -> None:
    """Sets which processes share a machine; before its main only Detectron2's launcher did."""
    if hasattr(comm, "create_local_process_group"):
        comm.create_local_process_group(size)
        return
    for first in range(0, comm.get_world_size(), size):
        ranks = range(first, first + size)
        group = distributed.new_group(list(ranks))
        if comm.get_rank() in ranks:
            comm._LOCAL_PROCESS_GROUP = group


def _start_processes(args: argparse.Namespace) -> None:
    """Starts this machine's processes by torchrun and waits for them.

    Raises:
        SystemExit: one of them failed (with its code), or a signal ended them.
    """
    options = ["--standalone"]
    if args.num_machines > 1:
        meeting = urlsplit(args.dist_url)
        if meeting.scheme != "tcp" or not meeting.port:
            raise UserError(
                f"--dist-url {args.dist_url}: expected tcp://HOST:PORT, a free port of machine 0"
            )
        options = [f"--nnodes={args.num_machines}", f"--node-rank={args.machine_rank}"]
        options += [f"--master-addr={meeting.hostname}", f"--master-port={meeting.port}"]
    # The processes report themselves what is wrong.
    logging.disable()
    try:
        run(parse_args([*options, f"--nproc-per-node={args.num_gpus}", *sys.argv]))
    except SignalException as stop:
        sys.exit(128 + stop.sigval)
    except ChildFailedError as error:
        codes = {failure.exitcode for failure in error.failures.values()}
        # Those that torchrun ended itself got SIGTERM.
        for killed in {code for code in codes if code < 0} - {-signal.SIGTERM}:
            name = signal.Signals(-killed).name
            print(f"error: a process of the run was ended by {name}", file=sys.stderr)
        # Those that lost their connection ended with 1, wrong input with 2.
        sys.exit(max(1, *codes))
