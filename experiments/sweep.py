"""Choose a strength on validation data, with Optuna; many workers may share one study.

    python -m experiments.sweep mnist --max-density 0.05 --trials 12 --epochs 10
    python -m experiments.sweep cifar10 --max-density 0.2 --trials 8 --limit 10000

Each trial trains with one strength and is judged on the held-out images alone: the best
validation accuracy among the strengths that leave at most ``--max-density`` of the weights
nonzero. The test images are never read here.
"""

import argparse
import os
import shlex
import socket
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import FloatDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, Trial, TrialState
from tqdm import tqdm

from experiments import cifar10, mnist
from experiments.checkpoints import differing, settings_of
from experiments.errors import DivergedError, FolderError, told
from experiments.flag_types import amount, positive
from experiments.flags import Flags
from experiments.results import read_json, table, write_figure, write_json, write_text
from experiments.training import Task, plan, train
from torchreg import plots

SCRIPTS = {"mnist": mnist.parse, "cifar10": cifar10.parse}
_DONE = (TrialState.COMPLETE, TrialState.PRUNED)

EPILOG = """\
All other flags are those of the experiment and hold for every trial (python -m
experiments.mnist --help). Give the same command again to resume; give it on several machines
with one --study folder on a shared disk to share the work.
"""


class Score:
    """Judge a row of an epoch: its validation accuracy, less what it is too dense by.

    A density above the limit costs more than any accuracy can bring, so feasible strengths
    always come first, and among infeasible ones the sparser.
    """

    def __init__(self, max_density: float) -> None:
        self.max_density = max_density

    def __call__(self, row: dict[str, Any]) -> float:
        """Return the number that the study maximises."""
        excess = row["density"] / self.max_density - 1
        return float(row["val_accuracy"] - (1 + excess if excess > 0 else 0))


def open_study(folder: Path, settings: dict[str, Any], seed: int) -> optuna.Study:
    """Open the study of a folder, new or begun, and take over the trials of dead workers.

    Raises:
        FolderError: the folder holds a study with other flags.
    """
    noted = folder / "settings.json"
    if noted.exists() and (others := differing(read_json(noted), settings)):
        raise FolderError(
            f"{folder} holds a study with other flags ({', '.join(others)} differ): its trials "
            "do not compare with these. Give the same flags, or another --study."
        )
    write_json(noted, settings)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        study_name="strength",
        storage=JournalStorage(JournalFileBackend(str(folder / "study.log"))),
        direction="maximize",
        sampler=optuna.samplers.TPESampler(seed=seed + os.getpid(), n_startup_trials=5),
        pruner=optuna.pruners.PercentilePruner(25, n_startup_trials=4, n_warmup_steps=2),
        load_if_exists=True,
    )
    for trial in study.get_trials(states=(TrialState.RUNNING,)):
        host, _, pid = trial.user_attrs.get("worker", ":0").partition(":")
        if host == socket.gethostname() and not Path(f"/proc/{pid}").exists():
            _return(study, trial)
    return study


def measure(task: Task, flags: Flags, trial: Trial, score: Score, folder: Path) -> None:
    """Train with one strength, and tell the study after each epoch how it is going.

    Raises:
        optuna.TrialPruned: it is worse than three in four trials at the same epoch.
    """
    phases = plan(flags)
    ends = accumulate(epochs for _, epochs, *_ in phases)
    before = {name: end - epochs for (name, epochs, *_), end in zip(phases, ends, strict=True)}

    def report(row: dict[str, Any]) -> None:
        trial.set_user_attr("row", {key: row[key] for key in ("val_accuracy", "density")})
        # A resumed trial goes on with the number of its own epoch.
        trial.report(score(row), before[row["phase"]] + row["epoch"])
        if trial.should_prune():
            raise optuna.TrialPruned

    flags.strength = trial.params["strength"]
    last = train(task, flags, folder / f"strength-{flags.strength:.6g}", report, quiet=True)[-1]
    trial.set_user_attr("row", {key: last.last[key] for key in ("val_accuracy", "density")})


def sweep(
    task: Task,
    flags: Flags,
    folder: Path,
    *,
    low: float,
    high: float,
    max_density: float,
    trials: int,
) -> list[FrozenTrial]:
    """Run trials until the study has as many as asked for, counting those of other workers.

    Returns:
        The finished and pruned trials, in the order in which they were begun.
    """
    ours = {"low": low, "high": high, "max_density": max_density, "task": task.name}
    places = {"data_dir", "out", "fresh", "device", "strength"}
    kept = {key: value for key, value in settings_of(flags).items() if key not in places}
    study = open_study(folder, {**kept, **ours}, flags.seed)
    score = Score(max_density)
    with tqdm(total=trials, desc="trials", unit="trial") as bar:
        while (done := len(study.get_trials(states=_DONE))) < trials:
            bar.update(done - bar.n)
            trial = study.ask({"strength": FloatDistribution(low, high, log=True)})
            trial.set_user_attr("worker", f"{socket.gethostname()}:{os.getpid()}")
            bar.set_postfix_str(f"strength {trial.params['strength']:.2e}")
            try:
                measure(task, flags, trial, score, folder)
            except (optuna.TrialPruned, DivergedError):
                study.tell(trial, state=TrialState.PRUNED)
            except BaseException:  # Ctrl-C too: hand the strength back, then stop
                _return(study, study.get_trials()[trial.number])
                raise
            else:
                study.tell(trial, score(trial.user_attrs["row"]))
        bar.update(done - bar.n)
    return list(study.get_trials(states=_DONE))


def report(trials: Sequence[FrozenTrial], max_density: float) -> tuple[str, FrozenTrial | None]:
    """Lay out the trials by strength, and pick the chosen one, if any is sparse enough."""
    complete = [t for t in trials if t.state is TrialState.COMPLETE]
    feasible = [t for t in complete if t.user_attrs["row"]["density"] <= max_density]
    best = max(feasible, key=lambda t: float(t.user_attrs["row"]["val_accuracy"]), default=None)
    rows = []
    for trial in sorted(trials, key=lambda t: float(t.params["strength"])):
        row = trial.user_attrs.get("row", {"val_accuracy": 0.0, "density": 1.0})  # diverged at once
        told = "pruned" if trial.state is TrialState.PRUNED else "chosen" if trial is best else ""
        accuracy, density = f"{row['val_accuracy']:.2%}", f"{row['density']:.2%}"
        rows.append([f"{trial.params['strength']:.3e}", accuracy, density, told])
    return table(["strength", "validation accuracy", "density", "note"], rows), best


def main(argv: Sequence[str] | None = None) -> None:
    """Sweep, then leave the table, the choice and the frontier in the study's folder."""
    made = argparse.ArgumentParser(
        prog="python -m experiments.sweep",
        description=(__doc__ or "").split("\n\n")[0] + "\n\n" + (__doc__ or "").split("\n\n")[1],
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("script", choices=SCRIPTS, help="the experiment to sweep")
    made.add_argument("--max-density", type=amount, default=0.15, help="of the weights")
    made.add_argument("--low", type=amount, default=1e-6, help="the weakest strength")
    made.add_argument("--high", type=amount, default=1e-3, help="the strongest strength")
    made.add_argument("--trials", type=positive, default=12, help="in all, of all workers")
    made.add_argument("--study", type=Path, help="its folder (default: runs/sweep-SCRIPT)")
    ours, rest = made.parse_known_args(argv)
    if not 0 < ours.low < ours.high:
        made.error(f"expected 0 < --low < --high, found {ours.low:g} and {ours.high:g}")
    if not 0 < ours.max_density <= 1:
        made.error(f"--max-density must be above 0 and at most 1, found {ours.max_density:g}")
    for flag, mend in (
        ("--strength", "the sweep chooses it; narrow --low and --high instead"),
        ("--out", "the study's folder is --study"),
        ("--fresh", "give another --study, or remove the folder of this one"),
    ):
        if any(word.partition("=")[0] == flag for word in rest):
            made.error(f"leave out {flag}: {mend}")
    task, flags = SCRIPTS[ours.script]([*rest, "--strength", f"{ours.low}"])
    folder = ours.study or Path("runs") / f"sweep-{ours.script}"
    trials = sweep(
        task,
        flags,
        folder,
        low=ours.low,
        high=ours.high,
        max_density=ours.max_density,
        trials=ours.trials,
    )
    told, best = report(trials, ours.max_density)
    print(told)
    write_text(folder / "trials.txt", told + "\n")
    complete = [t for t in trials if t.state is TrialState.COMPLETE]
    if complete:
        rows = [t.user_attrs["row"] for t in complete]
        name = f"{flags.model}, {flags.penalty}, {flags.mode}"
        chosen = (
            {name: (complete.index(best), best.user_attrs["row"]["val_accuracy"])} if best else {}
        )
        figure = plots.frontier(
            {name: [(1 - row["density"], row["val_accuracy"]) for row in rows]},
            chosen=chosen,
            chosen_measure="validation accuracy",
        )
        picture = folder / "frontier.png"
        write_figure(picture, figure)
        print(f"the frontier is drawn in {picture}")
    if best is None:
        raise FolderError(
            f"no strength between {ours.low:g} and {ours.high:g} left at most "
            f"{ours.max_density:.1%} of the weights: raise --high, --max-density or --trials."
        )
    strength = best.params["strength"]
    write_json(folder / "choice.json", {"strength": strength, **best.user_attrs["row"]})
    print("\nto train with it and read the test images once:")
    print(f"python -m experiments.{ours.script} --strength {strength!r} {shlex.join(rest)}")


def _return(study: optuna.Study, trial: FrozenTrial) -> None:
    """Give up a trial and put its strength in the queue, to go on from its checkpoint."""
    study.tell(trial.number, state=TrialState.FAIL)
    study.enqueue_trial(trial.params)


if __name__ == "__main__":
    told(main)
