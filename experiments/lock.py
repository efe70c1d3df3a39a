"""One process per folder: a second one with the same command would write over the first."""

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from experiments.errors import FolderError

if sys.platform != "win32":  # which has no advisory locks of this kind
    import fcntl


@contextlib.contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Hold a folder that exists; the system lets go of it when the process ends, or is killed.

    Raises:
        FolderError: another process holds it.
    """
    if sys.platform == "win32":
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise FolderError(
                f"another process is at work in {folder}. Wait for it, stop it, or give another "
                "--out."
            ) from error
        except OSError:
            pass  # a file system without locks
        yield
    finally:
        os.close(handle)
