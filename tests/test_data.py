from pathlib import Path
from urllib.error import URLError

import pytest
import torch
from torchvision.datasets import CIFAR10, CIFAR100, cifar, mnist

from experiments.data import (
    CIFAR10_SOURCE,
    CIFAR100_SOURCE,
    MNIST_SOURCE,
    Batches,
    DataError,
    Images,
    Source,
    hold_out,
    read,
)
from tests.datasets import pictures, write_cifar, write_mnist


def offline(patch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise URLError("Name or service not known")

    for module in (mnist, cifar):
        patch.setattr(module, "download_and_extract_archive", fail)


def test_mnist_is_read_from_the_archives_it_is_published_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_mnist(tmp_path, train=30, test=20, packed=monkeypatch)
    for train, count in ((True, 30), (False, 20)):
        found = read(MNIST_SOURCE, tmp_path, train=train)
        pixels, labels = pictures(count, 28, 1)
        assert torch.equal(found.pixels, pixels)
        assert torch.equal(found.labels, labels)


@pytest.mark.parametrize(
    ("source", "dataset", "count"),
    [(CIFAR10_SOURCE, CIFAR10, 100), (CIFAR100_SOURCE, CIFAR100, 100)],
)
def test_cifar_is_read_from_its_pickled_batches(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    source: Source,
    dataset: type[CIFAR10],
    count: int,
) -> None:
    write_cifar(tmp_path, dataset, monkeypatch)
    found = read(source, tmp_path, train=True)
    assert found.pixels.shape == (count, 32, 32, 3)
    assert found.pixels.dtype == torch.uint8
    expected, labels = pictures(count if source.classes == 100 else 20, 32, 3, source.classes)
    assert torch.equal(found.pixels[: len(expected)], expected)
    assert torch.equal(found.labels[: len(labels)], labels)


@pytest.mark.parametrize("source", [MNIST_SOURCE, CIFAR10_SOURCE, CIFAR100_SOURCE])
def test_a_failed_download_says_what_to_do_by_hand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: Source
) -> None:
    offline(monkeypatch)
    with pytest.raises(DataError) as caught:
        read(source, tmp_path, train=True)
    message = str(caught.value)
    for expected in ("lacks", "Name or service not known", "http", "unpack", "--data-dir"):
        assert expected in message
    assert str(tmp_path) in message


def test_damaged_files_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    offline(monkeypatch)
    write_cifar(tmp_path, CIFAR10, monkeypatch)
    file = tmp_path / "cifar-10-batches-py" / "data_batch_3"
    file.write_bytes(file.read_bytes()[:-7])
    with pytest.raises(DataError, match="damaged files: data_batch_3"):
        read(CIFAR10_SOURCE, tmp_path, train=True)


@pytest.mark.parametrize("keep", [0, 12, 5000])
def test_a_cut_idx_file_is_an_error(tmp_path: Path, keep: int) -> None:
    write_mnist(tmp_path)
    file = tmp_path / "MNIST" / "raw" / "train-images-idx3-ubyte"
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(DataError, match="could not read MNIST"):
        read(MNIST_SOURCE, tmp_path, train=True)


def test_unequal_images_and_labels_are_an_error(tmp_path: Path) -> None:
    write_mnist(tmp_path, train=30)
    write_mnist(tmp_path / "other", train=20)
    name = "MNIST/raw/train-labels-idx1-ubyte"
    (tmp_path / name).write_bytes((tmp_path / "other" / name).read_bytes())
    with pytest.raises(DataError, match="30 images and 20 labels"):
        read(MNIST_SOURCE, tmp_path, train=True)


def numbered(count: int) -> Images:
    return Images(torch.arange(count).to(torch.uint8).view(-1, 1, 1, 1), torch.arange(count))


def test_hold_out_splits_by_seed() -> None:
    fitted, held = hold_out(numbered(50), 10, seed=3)
    again = hold_out(numbered(50), 10, seed=3)
    assert len(fitted) == 40
    assert sorted([*fitted.labels.tolist(), *held.labels.tolist()]) == list(range(50))
    assert torch.equal(held.labels, again[1].labels)
    assert not torch.equal(held.labels, hold_out(numbered(50), 10, seed=4)[1].labels)
    with pytest.raises(ValueError, match="cannot hold out 50 of 50"):
        hold_out(numbered(50), 50, seed=0)


def test_an_epoch_depends_on_seed_and_epoch_alone() -> None:
    images = Images(*pictures(37, 8, 3))
    options = {"seed": 5, "shift": 2, "flip": True}
    first = Batches(images, CIFAR10_SOURCE, 10, **options)  # type: ignore[arg-type]
    second = Batches(images, CIFAR10_SOURCE, 10, **options)  # type: ignore[arg-type]
    before = [list(first), list(first)]
    first.set_epoch(1)
    first_epoch_1 = list(first)
    second.set_epoch(1)
    assert [len(y) for _, y in first_epoch_1] == [10, 10, 10, 7]
    assert len(first) == 4
    for (x, y), (x2, y2) in zip(first_epoch_1, second, strict=True):
        assert torch.equal(x, x2)
        assert torch.equal(y, y2)
    assert torch.equal(before[0][0][0], before[1][0][0])
    assert not torch.equal(before[0][0][1], first_epoch_1[0][1])


def test_without_a_seed_order_and_pixels_are_kept() -> None:
    images = Images(*pictures(12, 32, 3))
    ((x, y),) = Batches(images, CIFAR10_SOURCE, 12)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (CIFAR10_SOURCE.mean, CIFAR10_SOURCE.std))
    expected = (images.pixels.permute(0, 3, 1, 2) / 255 - mean) / std
    torch.testing.assert_close(x, expected)
    assert torch.equal(y, images.labels)


def test_every_moved_image_is_a_crop_of_the_padded_one() -> None:
    pixels, _ = pictures(40, 6, 1)
    images = Images(pixels, torch.arange(40))
    source = Source(mnist.MNIST, 10, (0.0,), (1 / 255,))  # leaves bytes as they are
    seen = set()
    for x, y in Batches(images, source, 16, seed=0, shift=2, flip=True):
        for one, index in zip(x.round().to(torch.uint8)[:, 0], y.tolist(), strict=True):
            padded = torch.nn.functional.pad(pixels[index, :, :, 0], (2, 2, 2, 2))
            crops = {
                (dy, dx, flip): (c.flip(1) if flip else c)
                for dy in range(5)
                for dx in range(5)
                for c in [padded[dy : dy + 6, dx : dx + 6]]
                for flip in (False, True)
            }
            hits = [key for key, crop in crops.items() if torch.equal(one, crop)]
            assert len(hits) == 1
            seen.add(hits[0])
    assert {dy for dy, _, _ in seen} == {dx for _, dx, _ in seen} == set(range(5))
    assert {flip for *_, flip in seen} == {False, True}


def test_a_process_group_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    with pytest.raises(RuntimeError, match="Use one device"):
        next(iter(Batches(numbered(4), MNIST_SOURCE, 2)))
