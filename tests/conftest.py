import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from hypothesis import HealthCheck, settings

torch.set_num_threads(1)  # two threads on a busy machine wait for each other for longer than they compute

for name in ("COLUMNS", "LINES"):  # tables are as wide as these say; readline leaves them to the processes it starts
    os.environ.pop(name, None)

# How long an example takes says how busy the machine is, not whether the answer is right.
settings.register_profile("unhurried", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("unhurried")
