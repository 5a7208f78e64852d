"""The facts of a run that must not enter any hash: when, on what, with which versions."""

import importlib.metadata
import os
import platform
import sys
from datetime import UTC, datetime
from typing import Any

PACKAGES = (
    "gristmill",
    "torch",
    "transformers",
    "datasets",
    "polars",
    "pyarrow",
    "numpy",
    "sentence-transformers",
    "faiss-cpu",
    "trl",
    "peft",
    "prefect",
)


def environment() -> dict[str, Any]:
    """Time (UTC), Python, machine, and the versions of what computes."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "machine": {"processor": platform.machine(), "cores": os.cpu_count(), "gpus": _gpus()},
        "packages": versions,
    }


def _gpus() -> list[str]:
    torch = sys.modules.get("torch")  # a run that never loaded it has used no GPU
    if torch is None or not torch.cuda.is_available():
        return []
    return [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
