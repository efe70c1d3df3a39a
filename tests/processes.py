"""Real processes for the tests: started by torchrun, and ended without Python's own exit."""

import os
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

ROOT = Path(__file__).parents[1]


def torchrun(processes: int, *arguments: str) -> str:
    """Run a module of this repository in several processes; what they print."""
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone",
         f"--nproc-per-node={processes}", "-m", *arguments],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-6000:]
    return done.stdout


def leave() -> NoReturn:
    """End this process, its results written, before Python is torn down.

    A device mesh stays in PyTorch's caches after ``destroy_process_group``, and with it the
    threads of gloo. One that has yet to let go of its last tensor when Python ends aborts the
    process ("terminate called without an active exception"; pytorch/pytorch#190489).
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
