"""Shared fixtures: a tiny random model, toy records, a store."""

import os
import sys

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # tiny models: more threads only wait
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
os.environ.setdefault("DO_NOT_TRACK", "1")
os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")

from functools import wraps
from pathlib import Path

import pytest

from gristmill.pipeline.records.store import Store

# Deprecations that libraries know of each other, and that nothing here could mend: they fail not
# even `make test-latest`.
KNOWN = [
    "ignore:.*gradient_checkpointing.*:FutureWarning",  # TRL and PEFT use names of transformers 5
]


def pytest_addoption(parser):
    parser.addoption(
        "--faults", type=Path, help="file to which the outcomes of marked faults are added"
    )


def pytest_configure(config):
    if (path := config.getoption("--faults")) is not None:
        from fault_table import Faults

        config.pluginmanager.register(Faults(path))


def pytest_collection_modifyitems(items):
    for item in items:
        for known in KNOWN:
            item.add_marker(pytest.mark.filterwarnings(known))


def together(nodeid: str) -> str:
    """The group of a test: on several cores, one worker runs all of it.

    A file's tests share what it sets up. The cases of the contract are the exception: they take
    longest and share little, but for those of pairs, which ask for much the same models.
    """
    file, _, test = nodeid.partition("::")
    if not test.startswith("test_contract["):
        return file
    return "contract of pairs" if test.endswith("-pair]") else nodeid


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Groups by name, not by the marks of `loadgroup`: pytest-xdist 3.8 loses them on pytest 9.2."""
    if config.getvalue("dist") != "loadgroup":
        return None
    from xdist.scheduler import LoadScopeScheduling

    class Groups(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return together(nodeid)

    return Groups(config, log)


@pytest.fixture(scope="session", autouse=True)
def no_wait_for_the_disk():
    """No `fsync`: it is for a cut of the power, and a killed process loses nothing it wrote."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


@pytest.fixture(scope="session")
def tiny(tmp_path_factory) -> Path:
    """A 2-layer random Llama with a byte-level tokenizer and a ChatML template."""
    from gristmill.pipeline.models.tiny import make_tiny

    return make_tiny(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture
def store(tmp_path) -> Store:
    root = tmp_path / "store"
    root.mkdir()
    return Store(root=root)


@pytest.fixture
def pair_chat(store, tiny):
    """The tiny model's chat tokenizer, short enough to cut pairs."""
    import preference_runs

    return preference_runs.pair_chat(store, tiny)


@pytest.fixture
def tuned(store, tiny, tmp_path):
    """A run whose target is a warmed-up adapter, with its pairs and validation pairs."""
    import preference_runs

    return preference_runs.tuned(store, tiny, tmp_path)


@pytest.fixture
def read(monkeypatch):
    """Tokens that went through the decoder."""
    from transformers.models.llama.modeling_llama import LlamaModel

    count = []
    inner = LlamaModel.forward

    @wraps(inner)
    def counted(self, input_ids=None, **rest):
        count.append(input_ids.numel())
        return inner(self, input_ids=input_ids, **rest)

    monkeypatch.setattr(LlamaModel, "forward", counted)
    return count


@pytest.fixture
def two_nodes(monkeypatch):
    """A Ray cluster of two nodes with one processor each; nodes find what a test defines."""
    from gristmill.pipeline.engine import on_ray

    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(p for p in sys.path if p))
    for name, value in on_ray.QUIET.items():
        monkeypatch.setenv(name, value)
    import ray
    from ray.cluster_utils import Cluster

    small = {"num_cpus": 1, "object_store_memory": 100 << 20}
    cluster = Cluster(initialize_head=True, head_node_args={**small, "include_dashboard": False})
    node = cluster.add_node(**small)
    ray.init(address=cluster.address, log_to_driver=False)
    yield cluster, node
    ray.shutdown()
    cluster.shutdown()
