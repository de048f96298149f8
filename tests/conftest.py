"""Shapes are checked in tests, and only there."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import torch
from jaxtyping import install_import_hook

# Before any test imports nuwaxl: every annotated shape is checked on every call.
install_import_hook("nuwaxl", "shape_check.check")

# The tests' networks are so small that handing work to a second thread costs more than it saves.
torch.set_num_threads(1)
