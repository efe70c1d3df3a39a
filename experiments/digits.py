"""Compare penalties in the loss with proximal ones, on scanned digits: sparsity and its price.

Trains one MLP on the 1,797 digits that scikit-learn carries along (nothing is downloaded), with
six methods over a grid of strengths, and writes a table, the numbers as JSON, and pictures.
Interrupted, it goes on from the runs that are finished when the same command is given again.
"""

import argparse
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context, parent_process
from pathlib import Path

try:
    from tqdm import tqdm

    from experiments import digits_report as report
    from experiments import digits_training as training
    from experiments.digits_methods import ASKED, COMPARED, METHODS, Method, method_name
    from experiments.digits_training import Run, Settings
    from experiments.penalties import ALONE, GROUPED, PENALTY_CHOICES
except ImportError as error:
    raise SystemExit(
        f'{error}\nThe experiments need more than torch: pip install "torchreg-prox[experiments]"'
    ) from error


def parser() -> argparse.ArgumentParser:
    """The flags."""
    made = argparse.ArgumentParser(
        prog="python -m experiments.digits",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument(
        "--out",
        type=_folder,
        default=Path("runs/digits"),
        help="folder for the results, and for the finished runs (default: %(default)s)",
    )
    made.add_argument(
        "--seed",
        type=_at_least(0),
        default=1,
        help="draws the splits and the initial weights (default: %(default)s)",
    )
    made.add_argument(
        "--penalty",
        choices=PENALTY_CHOICES,
        help="compare this one too, in the proximal optimizer; the README has a table of them",
    )
    made.add_argument(
        "--groups",
        choices=ALONE,
        help="of a group penalty; removable (the default): what a neuron is read by, so that "
        "zeros make a smaller network, which is then shown",
    )
    length = made.add_mutually_exclusive_group()
    length.add_argument(
        "--steps",
        type=_at_least(1),
        default=1200,
        help="full-batch steps of each run (default: %(default)s)",
    )
    length.add_argument(
        "--quick",
        action="store_const",
        dest="steps",
        const=150,
        help="150 steps each: a look in some seconds, far from settled",
    )
    made.add_argument(
        "--jobs",
        type=_at_least(1),
        default=min(2, os.cpu_count() or 1),
        help="runs trained side by side, one core each; no result depends on it "
        "(default: %(default)s)",
    )
    made.add_argument(
        "--fresh", action="store_true", help="discard the finished runs in the folder first"
    )
    return made


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line, and refuse what would do nothing."""
    made = parser()
    args = made.parse_args(argv)
    if args.penalty in COMPARED:
        made.error(
            f"--penalty {args.penalty} is compared anyway, as {COMPARED[args.penalty]!r}: leave it "
            "out"
        )
    if args.groups and args.penalty not in GROUPED:
        made.error(
            f"--groups belongs to a group penalty: give --penalty {' or '.join(GROUPED)} too, or "
            "leave --groups out"
        )
    if args.penalty in GROUPED and not args.groups:
        args.groups = ALONE[0]
    return args


def main(argv: Sequence[str] | None = None) -> int:
    """Train what is missing, choose on validation, read the test split once, and report."""
    args = arguments(argv)
    folder: Path = args.out / "runs"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if args.fresh:
            for file in (*folder.glob("*.json"), *folder.glob("*.pt")):
                file.unlink()
        methods = dict(METHODS)
        if args.penalty:
            name = method_name(args.penalty, args.groups)
            methods[name] = ASKED[name]
        finished = complete(methods, args.seed, args.steps, folder, args.jobs)
        print(report.write(finished, folder, args.out))
    except KeyboardInterrupt:
        kept = len(list(folder.glob("*.json")))
        print(
            f"Interrupted. {kept} finished runs are kept in {folder}; give the same command again "
            "(without --fresh) to go on.",
            file=sys.stderr,
        )
        return 130
    except BrokenProcessPool:
        print(
            "A training process was ended from outside (out of memory?). The finished runs are "
            f"kept in {folder}: give the same command again, with --jobs 1 to use less memory.",
            file=sys.stderr,
        )
        return 1
    except OSError as error:
        print(f"Cannot write to {args.out}: {error}", file=sys.stderr)
        return 1
    return 0


def complete(
    methods: Mapping[str, Method], seed: int, steps: int, folder: Path, jobs: int
) -> list[Run]:
    """All runs of the grid, in its order: those found finished, and the others trained now."""
    code = training.fingerprint()
    grid = [
        Settings(name, strength, seed, steps, code)
        for name, method in methods.items()
        for strength in method.strengths
    ]
    finished: dict[Settings, Run] = {}
    for settings in grid:
        try:
            run = training.read(settings, folder)
        except ValueError as error:
            print(f"Doing one run again: {error}", file=sys.stderr)
            continue
        if run is not None:
            finished[settings] = run
    if finished:
        print(f"{len(finished)} of {len(grid)} runs were finished before, in {folder}.")
    missing = [settings for settings in grid if settings not in finished]
    with tqdm(total=len(grid), initial=len(finished), unit="run", dynamic_ncols=True) as bar:
        for settings in _train_all(missing, folder, jobs):
            run = training.read(settings, folder)
            if run is None:
                raise OSError(f"the result of {settings.key} has vanished from {folder}")
            finished[settings] = run
            bar.update()
            bar.set_postfix_str(f"{settings.method} {settings.strength:g}: {run.validation:.1%}")
    return [finished[settings] for settings in grid]


def _train_all(missing: list[Settings], folder: Path, jobs: int) -> Iterator[Settings]:
    """Train, and yield each settings as its result is on disk."""
    if jobs == 1 or len(missing) < 2:
        for settings in missing:
            training.train(settings, folder)
            yield settings
        return
    executor = ProcessPoolExecutor(
        min(jobs, len(missing)), mp_context=get_context("spawn"), initializer=_follow_parent
    )
    try:
        futures = {executor.submit(training.train, one, folder): one for one in missing}
        for future in as_completed(futures):
            future.result()
            yield futures[future]
    finally:
        executor.shutdown(cancel_futures=True)


def _follow_parent() -> None:
    """End a worker with its parent: silently at Ctrl-C, and when the parent is killed."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    parent = parent_process()
    if parent is not None:

        def wait() -> None:
            parent.join()
            os._exit(1)

        threading.Thread(target=wait, daemon=True).start()


def _folder(text: str) -> Path:
    if not text.strip():
        raise argparse.ArgumentTypeError(f"expected the name of a folder, found {text!r}")
    return Path(text)


def _at_least(least: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = least - 1
        if value < least:
            raise argparse.ArgumentTypeError(
                f"expected a whole number of at least {least}, found {text!r}"
            )
        return value

    return number


if __name__ == "__main__":
    raise SystemExit(main())
