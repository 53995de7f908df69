import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

torch.set_num_threads(1)  # two threads on a busy machine wait for each other for longer than they compute
