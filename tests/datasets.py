"""Small data sets in the files' own formats, for the tests that read and train on real files."""

import gzip
import hashlib
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.datasets import CIFAR10, MNIST


def pictures(count: int, size: int, channels: int, classes: int = 10) -> tuple[Tensor, Tensor]:
    """Noisy copies of one random pattern per class: uint8 (count, size, size, channels)."""
    draws = torch.Generator().manual_seed(1)
    patterns = torch.randint(0, 256, (classes, size, size, channels), generator=draws)
    labels = torch.arange(count) % classes
    noise = torch.randint(-90, 91, (count, size, size, channels), generator=draws)
    return (patterns[labels] + noise).clamp(0, 255).to(torch.uint8), labels


def write_mnist(
    folder: Path, *, train: int = 400, test: int = 100, packed: pytest.MonkeyPatch | None = None
) -> None:
    """Write idx files below ``folder``, as torchvision unpacks them.

    With ``packed``, the gzip archives that it downloads, and their checksums in torchvision.
    """
    raw = folder / "MNIST" / "raw"
    raw.mkdir(parents=True)
    resources = []
    for part, count in (("train", train), ("t10k", test)):
        pixels, labels = pictures(count, 28, 1)
        files = {
            f"{part}-images-idx3-ubyte": struct.pack(">IIII", 0x803, count, 28, 28)
            + pixels.numpy().tobytes(),
            f"{part}-labels-idx1-ubyte": struct.pack(">II", 0x801, count)
            + labels.to(torch.uint8).numpy().tobytes(),
        }
        for name, content in files.items():
            if packed is None:
                (raw / name).write_bytes(content)
            else:
                archive = gzip.compress(content, mtime=0)
                (raw / f"{name}.gz").write_bytes(archive)
                resources.append((f"{name}.gz", hashlib.md5(archive).hexdigest()))
    if packed is not None:
        packed.setattr(MNIST, "resources", resources)


def write_cifar(
    folder: Path, dataset: type[CIFAR10], checksums: pytest.MonkeyPatch, *, each: int = 20
) -> None:
    """Write pickled batches below ``folder``, and their checksums in torchvision."""
    base = folder / dataset.base_folder
    base.mkdir(parents=True)
    hundred = dataset.base_folder == "cifar-100-python"
    key = "fine_labels" if hundred else "labels"

    def write(name: str, content: object) -> str:
        (base / name).write_bytes(pickle.dumps(content))
        return hashlib.md5((base / name).read_bytes()).hexdigest()

    def batch(name: str) -> list[str]:
        pixels, labels = pictures(100 if hundred else each, 32, 3, 100 if hundred else 10)
        rows = np.ascontiguousarray(pixels.permute(0, 3, 1, 2).reshape(len(labels), -1).numpy())
        return [name, write(name, {"data": rows, key: labels.tolist()})]

    checksums.setattr(dataset, "train_list", [batch(name) for name, _ in dataset.train_list])
    checksums.setattr(dataset, "test_list", [batch(name) for name, _ in dataset.test_list])
    meta = dict(dataset.meta)
    meta["md5"] = write(meta["filename"], {meta["key"]: [str(i) for i in range(10)]})
    checksums.setattr(dataset, "meta", meta)
