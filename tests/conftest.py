"""`SEED_OFFSET=3 pytest tests/test_training.py` runs the tests with other draws: what they say of a training
must hold for these too.

Processes that a test starts are not moved, so tests that compare with one
(test_distributed.py) are for offset 0."""
import os

if offset := int(os.environ.get("SEED_OFFSET", 0)):
    import seeds
    seeds.shift(offset)

# It asks Intel's library for strict bits, which is heard only before the library's first call; test files
# compute on import.
import noisy_course.basics

import pytest
import torch

@pytest.fixture(scope="module")
def one_thread():
    "One thread, as where a block is trained."
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
