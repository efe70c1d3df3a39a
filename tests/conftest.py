"""Every test runs on one thread and from the same seed."""

import pytest
import torch
from hypothesis import settings

torch.set_num_threads(1)
settings.register_profile("torchreg", deadline=None, derandomize=True, database=None)
settings.load_profile("torchreg")


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)
