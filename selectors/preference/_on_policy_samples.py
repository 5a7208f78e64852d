"""On-policy samples: what the policy itself writes to each prompt."""

# N = rows

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

import polars as pl

from gristmill.pipeline.contracts import Artifact, Context, Prepared, Recipe, View
from gristmill.pipeline.models.chat_tokenizer import ChatTokenizer, Encoded
from gristmill.pipeline.models.completion.client import Budget, Request, Sampling, complete
from gristmill.pipeline.records.store import Step, table
from gristmill.pipeline.records.text import whole
from gristmill.pipeline.signals.pair_signals import continued

VERSION = 2
TABLE = "responses"


@dataclass(frozen=True, kw_only=True)
class OwnResponses(Recipe):
    """One response of a model to each prompt of the pool, drawn by seed and prompt.

    It makes the artifact "responses".

    Attributes:
        base: the role whose (last) model writes.
        max_tokens: longest response; one that reaches it is kept as it is.
        temperature: of the draws.
        seed: of the draws.
    """

    artifact: ClassVar[str] = "responses"
    base: str = "target"
    max_tokens: int = 64
    temperature: float = 1.0
    seed: int = 0

    def cost(self, rows: int, targets: int) -> float:
        return 2.0 * rows  # the prompt, and a token after the other

    def make(self, context: Context) -> Prepared:
        models = context.models
        files = models.files(self.base)[-1]
        step = Step(
            name="own-responses",
            version=VERSION,
            settings={
                "max_tokens": self.max_tokens,
                "temperature": self.temperature,
                "seed": self.seed,
            },
            inputs={"pool": context.pool.content, "model": files.fingerprint},
        )

        def write() -> pl.DataFrame:
            from gristmill.pipeline.models.completion.local import Local

            loaded = models.load(files, context.passes)
            rows = context.pool.frame(["id", "prompt", "tools"]).unique("id").sort("id").to_dicts()
            results = complete(
                rows,
                Local(loaded=loaded),
                prompt=self._request,
                cache=models.store.root / "completions.sqlite",
                budget=Budget(caps=context.caps),
                keep_cut=True,
            )
            said = [(r.row["id"], str(r.value)) for r in results if r.status == "ok"]
            return pl.DataFrame(said, schema={"id": pl.String, "text": pl.String}, orient="row")

        entry = models.store.run(step, [table(TABLE, write)])
        found = Artifact(name=self.artifact, content=entry.content, path=entry.path)
        return Prepared(artifact=found)

    def _request(self, row: Mapping[str, Any]) -> Request:
        turns = [whole(m) for m in row["prompt"]]
        tools = json.loads(row["tools"]) if row.get("tools") else ()
        sampling = Sampling(max_tokens=self.max_tokens, temperature=self.temperature)
        return Request(id=row["id"], messages=turns, tools=tools, sampling=sampling, seed=self.seed)


@lru_cache(maxsize=2)
def _responses(folder: Path) -> dict[str, str]:
    return dict(pl.read_parquet(folder / f"{TABLE}.parquet").iter_rows())


@dataclass(frozen=True, kw_only=True)
class OwnResponse(View):
    """The prompt of a pair and what the policy wrote to it.

    Attributes:
        written: what `OwnResponses` made; None before it is made.
    """

    written: Artifact | None = None

    @property
    def name(self) -> str:
        return f"own_response_{self.written.content[:8] if self.written else 'none'}"

    def encode(self, record: Mapping[str, Any], chat: ChatTokenizer) -> Encoded:
        text = _responses(self.written.path).get(record["id"], "") if self.written else ""
        if not text.strip():
            return Encoded(reason="nothing_written")
        said = {"role": "assistant", "content": text}
        return continued(record["prompt"], [said], chat, record.get("tools"))
