"""Torch on one thread, where what is learnt must not hang on the cores."""

import contextlib
from collections.abc import Iterator


@contextlib.contextmanager
def one_torch_thread() -> Iterator[None]:
    """The order of sums depends on the number of threads, and so would the bytes; and on two, steps of milliseconds wait for each other."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
