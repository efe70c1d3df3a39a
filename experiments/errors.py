"""What ends a run early, told in a line instead of a traceback."""

import signal
import sys
import threading
from collections.abc import Callable

from experiments.data import DataError


class FolderError(RuntimeError):
    """A run's folder holds something else than the command expects; the message says what to do."""


class DivergedError(RuntimeError):
    """A loss or a weight is no longer finite; the message says what to do."""


class Interrupted(BaseException):
    """Ctrl-C or SIGTERM. Lightning answers both in its own way, but lets this pass."""


def told(main: Callable[[], None]) -> None:
    """Run a script; an error that the user can mend ends it with a message and status 1.

    Ctrl-C ends it with status 130 and SIGTERM with 143, as a shell would have it.
    """

    def interrupt(number: int, _: object) -> None:
        raise Interrupted(number)

    signals = (signal.SIGINT, signal.SIGTERM)
    ours = threading.current_thread() is threading.main_thread()
    before = {number: signal.signal(number, interrupt) for number in signals if ours}
    try:
        main()
    except (OSError, ValueError, DataError, FolderError, DivergedError) as error:
        sys.exit(f"error: {error}")
    except Interrupted as caught:
        print("interrupted; give the same command again to go on", file=sys.stderr)
        sys.exit(128 + int(caught.args[0]))
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
