"""What every test shares: one torch thread, so that sums and timings are the same everywhere."""

from __future__ import annotations

import torch

torch.set_num_threads(1)
