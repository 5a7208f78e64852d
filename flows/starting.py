"""Starting: how long a run takes that has next to nothing to do, timed as a probe.

A child process publishes a few rows: it starts Python and Prefect, reads, cleans, renders, writes
the dataset and its report, and ends. What passes, training and the number of rows take is planned
apart.
"""

import json
import os
import subprocess
import sys
from collections.abc import Mapping

from gristmill.pipeline.plan.amounts import Amount
from gristmill.pipeline.plan.lines import PlanLine
from gristmill.pipeline.plan.probe import Probe
from gristmill.pipeline.plan.publishing import write_few
from gristmill.pipeline.records.dataset import Dataset

ROWS = 8
_RUN = "import torch; from gristmill.flows.cli import main; main()"


def line(pool: Dataset, roles: Mapping[str, str], probe: Probe) -> PlanLine:
    """The time of a run's beginning and end; unknown where a run of a few rows fails.

    Args:
        pool: the rows of the run.
        roles: folders of its models, by role; the target renders what is published.
        probe: its scratch store is where the child works.
    """
    folder = probe.store.root / "start"
    folder.mkdir()
    few = folder / "rows.jsonl"
    write_few(pool, few, ROWS)
    settings = {
        "name": "probe",
        "sources": [{"path": str(few)}],
        "models": {role: path for role, path in roles.items() if role == "target"},
        "store": str(folder / "store"),
        "export": {"root": str(folder / "published")},
    }
    file = folder / "run.yaml"
    file.write_text(json.dumps(settings), "utf-8")  # JSON is YAML
    home = {"PREFECT_HOME": str(folder / "prefect")}
    begun = probe.clock()
    child = subprocess.run(
        [sys.executable, "-c", _RUN, "run", "clean", str(file)],
        env={**{k: v for k, v in os.environ.items() if k != "PREFECT_API_URL"}, **home},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
    )
    took = probe.clock() - begun
    told = "Python, Prefect, reading, publishing"
    if child.returncode:
        return PlanLine(data="start and end", runs=told)
    return PlanLine(data="start and end", runs=told, seconds=Amount(value=took, half=took / 2))
