"""A run of toy rows to look at: hostile ones among them, with vectors and token losses observed."""

import json
from pathlib import Path

import curation
from rows import chat_rows, write_jsonl

from gristmill.flows import config as configs
from gristmill.flows.steps import Curation
from gristmill.pipeline.observe.observe import observe
from gristmill.pipeline.records.dataset import Dataset
from gristmill.pipeline.signals.forward_signals import TokenLosses

LONG = "needle-first " + "so it goes on and on " * 52_000 + "needle-last"  # more than 1 MB
CANARY = "window.canary=1"
# What a reader must see of a row, in the order of the rows; `{}` of a mark is its name.
HOSTILE = {
    f"<script>{CANARY}</script>": f"<script>{CANARY}</script>",
    f"<img src=http://elsewhere.example/a.png onerror={CANARY}>": "onerror=",
    f"<svg onload={CANARY}><animate onbegin={CANARY} /></svg>": "<svg onload=",
    f"[click](javascript:{CANARY}) ![p](http://elsewhere.example/b.png)": "http://elsewhere.example/b.png",
    "<iframe srcdoc='<script>parent.canary=1</script>'></iframe>": "<iframe srcdoc=",
    "<style>@import 'http://elsewhere.example/c.css';*{display:none}</style>": "@import",
    "</div></body></html><base href=http://elsewhere.example/>": "</div></body></html>",
    "\u202egnp.exe\u202c \u2066hidden\u2069 \U000e0041": "U+202E",
    "\x1b[2J\x1b[31mred \x1b]8;;http://elsewhere.example\x07link\x1b]8;;\x07": "ESC[31mred",
    LONG: "needle-first",
}


def hostile_rows() -> list[dict]:
    return [
        {
            "id": f"hostile-{number}",
            "messages": [
                {
                    "role": "user",
                    "content": f"hostile {number} $\\href{{javascript:alert(1)}}{{x}}$",
                },
                {
                    "role": "assistant",
                    "content": said,
                    "reasoning_content": f"thought <b>{number}</b>",
                },
            ],
        }
        for number, said in enumerate(HOSTILE)
    ]


def tool_row() -> dict:
    call = {"function": {"name": "look<i>up", "arguments": json.dumps({"q": "<b>hay</b>"})}}
    return {
        "id": "with-tools",
        "messages": [
            {"role": "user", "content": "What is $\\frac{1}{2}$ of **six**?"},
            {"role": "assistant", "content": "", "tool_calls": [call]},
            {"role": "tool", "name": "lookup", "content": "3"},
            {"role": "assistant", "content": "It is `3`.\n\n- half\n- of six"},
        ],
    }


def settings(root: Path, tiny: Path, **more) -> dict:
    """A run by embeddings: every row has a vector, some fall as copies, two cannot be read."""
    asked = curation.settings(
        root,
        tiny,
        scorers=[{"method": "embedding_similarity"}, {"method": "length"}],
        max_row_bytes=4_000_000,
        clean={"near": {"threshold": 0.95}},
        **more,
    )
    pool = Path(asked["sources"][0]["path"])
    further = write_jsonl(root / "further.jsonl", [*hostile_rows(), tool_row()])
    asked["sources"] = [
        {"path": str(pool), "license": "MIT"},
        {"path": str(further), "name": "further <b>rows</b>"},
    ]
    return asked


def made(root: Path, tiny: Path) -> tuple[Path, dict]:
    """The published folder of such a run, and its settings; token losses are in the store too."""
    asked = settings(root, tiny)
    run = configs.CurateConfig.model_validate(asked)
    folder = curation.walk_through(run)
    some = write_jsonl(root / "some.jsonl", chat_rows(6))
    with_losses = Curation(
        config=run.model_copy(update={"sources": [configs.Source(path=str(some))]})
    )
    observe(with_losses.context, Dataset.open(with_losses.ingest("pool")), [TokenLosses()])
    return folder, asked
