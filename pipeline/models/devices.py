"""Devices: what models can be run on here."""

import os

import torch

_GIB = 1 << 30


def accelerators() -> dict[str, str]:
    """Name of a device, as `passes.device` has it -> what it is; the processor is none of them."""
    found = {}
    for number in range(torch.cuda.device_count()):
        facts = torch.cuda.get_device_properties(number)
        found[f"cuda:{number}"] = f"{facts.name}, {facts.total_memory / _GIB:.0f} GiB"
    if torch.backends.mps.is_available():
        found["mps"] = "Apple GPU"
    return found


def processor() -> str:
    """The cores that this process may use, and how many of them a model does."""
    usable = getattr(os, "sched_getaffinity", None)
    cores = len(usable(0)) if usable is not None else os.cpu_count()
    return f"{cores} cores, {torch.get_num_threads()} threads a model"
