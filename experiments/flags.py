"""What a run was asked for."""

import argparse
from pathlib import Path


class Flags(argparse.Namespace):
    """What a run was asked for: the parsed flags, with their types."""

    model: str
    penalty: str
    strength: float
    density: float | None
    ramp: list[float]
    multiply_adds: bool
    each_layer: bool
    multiple: int | None
    l2: float
    groups: str
    where: list[str] | None
    mode: str
    optimizer: str
    lr: float
    weight_decay: float
    momentum: float
    start: Path | None
    teacher: Path | None
    warmup: float
    epochs: int
    debias_epochs: int
    debias_lr: float | None
    batch_size: int
    shift: int
    flip: bool
    limit: int | None
    validation: int
    seed: int
    device: str
    precision: str
    data_dir: Path
    out: Path | None
    fresh: bool
    cifar100: bool = False
