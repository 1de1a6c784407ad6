"`SEED_OFFSET=3 pytest tests/test_training.py` runs the tests with other draws: what they say of a training must hold for these too."
import os

import seeds

seeds.shift(int(os.environ.get("SEED_OFFSET", 0)))
