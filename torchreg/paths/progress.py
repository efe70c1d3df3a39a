"""A line that tells how far a path is; nothing else in the library prints."""

import sys
import time


class Progress:
    """One line on standard error, written over as it goes; silent unless it was asked for.

    Args:
        total: how many points there are.
        shown: whether to print; None prints where standard error is a terminal.
    """

    def __init__(self, total: int, shown: bool | None) -> None:
        self.total = total
        self.shown = sys.stderr.isatty() if shown is None else shown
        self.begun = time.monotonic()

    def tell(self, done: int, told: str) -> None:
        """Say that so many points are done."""
        if self.shown:
            seconds = time.monotonic() - self.begun
            end = "\n" if done == self.total or not sys.stderr.isatty() else "\r"
            line = f"path {done}/{self.total} [{seconds:.1f} s] {told}"
            print(f"{line:<79}", end=end, file=sys.stderr, flush=True)
