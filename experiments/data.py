"""MNIST and CIFAR in memory: read once, then cut into batches by a few tensor operations.

Decoding one image at a time in worker processes costs more than training a small network. Here
a whole data set lies in memory as bytes, on the device that trains, and a batch is shuffled,
shifted, flipped and normalised by vectorised indexing.
"""

import pickle
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, distributed
from torch.nn import functional as F
from torchvision.datasets import CIFAR10, CIFAR100, MNIST
from torchvision.datasets.utils import check_integrity


class DataError(RuntimeError):
    """The data is missing or damaged; the message says what to do by hand."""


@dataclass(frozen=True)
class Images:
    """Images of one shape and their classes."""

    pixels: Tensor
    """uint8, (images, height, width, channels)."""

    labels: Tensor
    """int64, (images,)."""

    def __len__(self) -> int:
        return len(self.labels)

    def at(self, index: Tensor | slice) -> "Images":
        """Some of the images."""
        return Images(self.pixels[index], self.labels[index])


class Source(NamedTuple):
    """A torchvision data set, and what to normalise its images in [0, 1] by."""

    dataset: type[MNIST] | type[CIFAR10]
    classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]


# The mean of MNIST is left in: ink is above 0 and paper is 0, so the weights of the many pixels
# that are never inked have no gradient, and a penalty removes them.
MNIST_SOURCE = Source(MNIST, 10, (0.0,), (0.3081,))
CIFAR10_SOURCE = Source(CIFAR10, 10, (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))
CIFAR100_SOURCE = Source(CIFAR100, 100, (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762))


def read(source: Source, data_dir: Path, *, train: bool) -> Images:
    """Read the training or the test images; download them first where they are absent.

    Args:
        source: which data set.
        data_dir: the folder that torchvision keeps the data set's own folder in.
        train: the training images, else the test images.

    Raises:
        DataError: absent and the download failed, or damaged. The message names the files,
            where they come from and where they belong.
    """
    try:
        found = source.dataset(data_dir, train=train, download=True)
        labels = torch.as_tensor(found.targets, dtype=torch.int64)
    except (
        OSError,
        RuntimeError,
        ValueError,
        AssertionError,
        KeyError,
        EOFError,
        pickle.UnpicklingError,
    ) as error:
        raise DataError(_mend(source, Path(data_dir), error)) from error
    pixels = torch.as_tensor(found.data)
    if len(pixels) != len(labels) or not len(labels):
        told = f"it holds {len(pixels)} images and {len(labels)} labels"
        raise DataError(_mend(source, Path(data_dir), ValueError(told)))
    return Images(pixels.reshape(*pixels.shape[:3], len(source.mean)), labels)


def hold_out(images: Images, count: int, seed: int) -> tuple[Images, Images]:
    """Split off ``count`` images, drawn by the seed: what is left, and what is held out.

    Raises:
        ValueError: nothing would be held out, or nothing left.
    """
    if not 0 < count < len(images):
        raise ValueError(
            f"cannot hold out {count} of {len(images)} training images for validation: choose a "
            f"number from 1 to {len(images) - 1}."
        )
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    return images.at(order[count:]), images.at(order[:count])


class Batches:
    """Batches of normalised float images and their labels, cut from tensors in memory.

    Iterating yields ``(x, y)``: x float32 (batch, channels, height, width), laid out channels
    last; y int64 (batch,). Order and augmentation of an epoch depend on the seed and the epoch
    alone, never on what ran before: a run that resumes after epoch k sees what an unbroken one
    sees. Lightning sets the epoch through ``sampler.set_epoch``, which is this object's own.

    It belongs to one process: under DDP every rank would train on all of the data.

    Args:
        images: what to draw from; moved to the device once.
        source: the mean and deviation to normalise by.
        batch_size: the last batch may be smaller.
        device: where the batches are wanted.
        seed: of the order and the augmentation. None keeps the order and augments nothing.
        shift: move each image by up to so many pixels each way, with black behind it.
        flip: mirror every other image, at random.

    Raises:
        RuntimeError: from iteration, in a process group of more than one process.
    """

    def __init__(
        self,
        images: Images,
        source: Source,
        batch_size: int,
        *,
        device: torch.device | str = "cpu",
        seed: int | None = None,
        shift: int = 0,
        flip: bool = False,
    ) -> None:
        self.images = Images(images.pixels.to(device), images.labels.to(device))
        self.batch_size = batch_size
        self.seed, self.shift, self.flip = seed, shift, flip
        self.epoch = 0
        self._mean = 255 * torch.tensor(source.mean, device=device)
        self._std = 255 * torch.tensor(source.std, device=device)

    batch_sampler = None
    """Lightning asks for it wherever there is a ``sampler``."""

    @property
    def sampler(self) -> "Batches":
        """Where Lightning looks for ``set_epoch``."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order the next iteration has."""
        self.epoch = epoch

    def __len__(self) -> int:
        return -(-len(self.images) // self.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        if distributed.is_available() and distributed.is_initialized():
            processes = distributed.get_world_size()
            if processes > 1:
                raise RuntimeError(
                    f"Batches belongs to one process, found {processes}: every rank would train "
                    "on all of the data. Use one device."
                )
        count, device = len(self.images), self.images.labels.device
        if self.seed is None:
            for start in range(0, count, self.batch_size):
                yield self._normalised(self.images.at(slice(start, start + self.batch_size)))
            return
        # All draws of an epoch at once, on the host: the same on every device, one copy each.
        draws = torch.Generator().manual_seed(self.seed * 100_003 + self.epoch)
        order = torch.randperm(count, generator=draws).to(device)
        offsets = torch.randint(2 * self.shift + 1, (2, count), generator=draws).to(device)
        mirrored = (torch.rand(count, generator=draws) < 0.5 * self.flip).to(device)
        for start in range(0, count, self.batch_size):
            now = slice(start, start + self.batch_size)
            batch = self.images.at(order[now])
            moved = self._moved(batch.pixels, offsets[:, now], mirrored[now])
            yield self._normalised(Images(moved, batch.labels))

    def _moved(self, pixels: Tensor, offsets: Tensor, mirrored: Tensor) -> Tensor:
        """Crop each image from its padded self, and mirror some: one gather for both."""
        if not self.shift and not self.flip:
            return pixels
        batch, height, width, _ = pixels.shape
        padded = F.pad(pixels, (0, 0, *[self.shift] * 4))
        rows = torch.arange(height, device=pixels.device)
        columns = torch.arange(width, device=pixels.device)
        columns = torch.where(mirrored[:, None], columns.flip(0), columns)
        index = torch.arange(batch, device=pixels.device)[:, None, None]
        y, x = offsets[0][:, None] + rows, offsets[1][:, None] + columns
        return padded[index, y[:, :, None], x[:, None, :]]

    def _normalised(self, batch: Images) -> tuple[Tensor, Tensor]:
        x = (batch.pixels.float() - self._mean) / self._std
        return x.permute(0, 3, 1, 2), batch.labels


def _mend(source: Source, data_dir: Path, error: Exception) -> str:
    """Say what is wrong with a data set, and how to put it right by hand."""
    name = source.dataset.__name__
    reason = str(error).strip() or type(error).__name__
    if issubclass(source.dataset, MNIST):
        folder = data_dir / name / "raw"
        files = [(Path(file).stem, None) for file, _ in source.dataset.resources]
        get = [f"{source.dataset.mirrors[0]}{file}" for file, _ in source.dataset.resources]
        put = f"unpack them (gunzip) in {folder}"
    else:
        folder = data_dir / source.dataset.base_folder
        files = [(file, md5) for file, md5 in source.dataset.train_list + source.dataset.test_list]
        get = [source.dataset.url]
        put = f"unpack it in {data_dir} (tar xzf), which makes {folder}"
    missing = [file for file, _ in files if not (folder / file).is_file()]
    damaged = [f for f, md5 in files if f not in missing and not check_integrity(folder / f, md5)]
    found = [
        *([f"{folder} lacks {', '.join(missing)}, and downloading failed."] if missing else []),
        *([f"{folder} has damaged files: {', '.join(damaged)}."] if damaged else []),
    ]
    return "\n".join(
        [
            f"could not read {name}. {' '.join(found) or f'{folder} has unreadable files.'}",
            f"  Reason: {reason}",
            "  By hand: on a machine with a network, get",
            *(f"    {url}" for url in get),
            f"  and {put}; remove damaged files first. Another folder: --data-dir.",
        ]
    )
