"""Where the repository lies, and the data that tests read."""

import os
from pathlib import Path

ROOT = Path(__file__).parents[2]
DATA = Path(os.environ.get("GRISTMILL_DATA", ROOT / "benchmarks" / "data"))
