"""Smaller models made of the model itself: low-rank layers (IProX) and dropped blocks.

| recipe | makes |
|---|---|
| `LowRankProxy` | linear layers in low rank, chosen to keep the influence between rows |
| `DroppedBlocks` | the model without every second (or other) decoder block |

Both are checkpoints like any other, entries of the store. An adapter is merged into its base first.
"""

import dataclasses
import json
import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from gristmill.pipeline.contracts import Context, Prepared, Recipe, settings_of
from gristmill.pipeline.finetune.checkpoints import settle
from gristmill.pipeline.models.load import LoadedModel, load, pick_device, pick_dtype
from gristmill.pipeline.models.low_rank import KEY, save
from gristmill.pipeline.models.passes import Passes
from gristmill.pipeline.models.reference import ModelFiles
from gristmill.pipeline.prepare.prepare import count_read, draw
from gristmill.pipeline.records.dataset import unique_ids
from gristmill.pipeline.records.schema import digest, uniform
from gristmill.pipeline.records.store import Part, Step, Store
from gristmill.selectors.influence._low_rank_layers import Ridge, Weighting

VERSION = 2
SHARE = 0.01  # of the pool, the paper's
ALIGNING = 12  # fe of a step of alignment, a row: two models, and a second derivative
FACTS = "proxy.json"  # in the model's folder: what was measured while it was made
Make = Callable[[LoadedModel], tuple[Any, Mapping[str, Any]]]  # the smaller model, its facts


@dataclass(frozen=True, kw_only=True)
class DroppedBlocks(Recipe):
    """The base without some of its decoder blocks; the rest is as it was.

    Attributes:
        role: the role that the result fills.
        base: the role whose (last) model is cut.
        every: 2 drops every second block, 3 every third; a list drops the blocks with these
            numbers, from 0.
    """

    role: str = "proxy"
    base: str = "target"
    every: int | tuple[int, ...] = 2

    @property
    def share_of_base(self) -> float:
        return 1 - 1 / self.every if isinstance(self.every, int) else 1.0

    def __post_init__(self) -> None:
        if self.every in (0, 1) or self.every == () or min(self.chosen or (2,)) < 0:
            raise ValueError(
                f"every is {self.every}; give 2 or more, or the numbers of the blocks to drop."
            )

    @property
    def chosen(self) -> tuple[int, ...]:
        return () if isinstance(self.every, int) else tuple(sorted(set(self.every)))

    def make(self, context: Context) -> Prepared:
        passes = context.passes
        step = Step(
            name="dropped-blocks",
            version=VERSION,
            settings={
                "every": self.every if isinstance(self.every, int) else list(self.chosen),
                "dtype": pick_dtype(passes.dtype, pick_device(passes.device)),
            },
            inputs={"model": context.models.files(self.base)[-1].fingerprint},
        )
        return _published(step, context, self.base, self._cut)

    def _cut(self, loaded: LoadedModel) -> tuple[Any, Mapping[str, Any]]:
        model = loaded.model
        config = model.config.get_text_config()
        count = int(config.num_hidden_layers)
        every = self.every
        dropped = range(every - 1, count, every) if isinstance(every, int) else self.chosen
        kept = [i for i in range(count) if i not in set(dropped)]
        if not dropped or not kept or max(dropped) >= count:
            raise ValueError(
                f"model {loaded.files.reference!r} has {count} blocks, and every={every} would "
                f"leave {len(kept)}: give a number from 2 to {count}, or some of 0 to {count - 1}."
            )
        _keep(model, kept, count)
        notes = (
            f"blocks {', '.join(map(str, dropped))} of {count} are dropped, {len(kept)} stay.",
        )
        return model, {"notes": notes, "dropped": list(dropped), "blocks": len(kept)}


def _keep(model: Any, kept: Sequence[int], count: int) -> None:  # noqa: ANN401
    """Leave the blocks `kept`, and what the configuration says of them."""
    from torch import nn

    from gristmill.pipeline.models.forward import backbone

    decoder = backbone(model)
    lists = [
        (name, module)
        for name, module in decoder.named_children()
        if isinstance(module, nn.ModuleList) and len(module) == count
    ]
    if len(lists) != 1:
        raise ValueError(
            f"{type(decoder).__name__} keeps its {count} blocks in {len(lists)} lists; expected "
            "one: this family's blocks cannot be dropped."
        )
    name, blocks = lists[0]
    setattr(decoder, name, nn.ModuleList(blocks[i] for i in kept))
    config = model.config.get_text_config()
    per_block = {
        key: [value[i] for i in kept]
        for key, value in config.to_dict().items()
        if isinstance(value, list) and len(value) == count
    }
    config.update({"num_hidden_layers": len(kept), **per_block})


@dataclass(frozen=True, kw_only=True)
class LowRankProxy(Recipe):
    """IProX: the base with its linear layers in low rank; see `_low_rank_layers`.

    Rows are drawn by hash(seed, id): some to measure the result on, some for probe tokens, the
    rest of a share of the pool for alignment. Small-pool overrides are logged.

    Attributes:
        role: the role that the result fills.
        base: the role whose (last) model is made smaller.
        rho: share of each layer's weights that goes, before its rank is rounded up.
        rank_multiple: ranks are multiples of it; None: 128, or 16 below 1,024 hidden dimensions.
        weighting: which sides of a layer are weighted by probes; "none" is a plain SVD.
        ridge: "relative" to the mean eigenvalue of each side, or "absolute".
        gamma: of the ridge.
        share: of the pool, for probes (a tenth of it) and alignment; None: 1 %, and at least 16
            rows to align on.
        tokens: probe tokens; None: 1,024 or twelve times the largest rank.
        epochs: of alignment; 0 leaves it out.
        batch_size: rows per step of alignment.
        learning_rate: of AdamW, constant; None: 1e-4, or 1e-5 below 1,024 hidden dimensions.
        weight_decay: of AdamW.
        kl_weight: of the term that keeps predictions near the target's.
        temperature: of that term.
        seed: of all draws.
    """

    role: str = "proxy"
    base: str = "target"
    rho: float = 0.5
    rank_multiple: int | None = None
    weighting: Weighting = "both"
    ridge: Ridge = "relative"
    gamma: float = 1e-3
    share: float | None = None
    tokens: int | None = None
    epochs: int = 5
    batch_size: int = 4
    learning_rate: float | None = None
    weight_decay: float = 0.01
    kl_weight: float = 0.1
    temperature: float = 2.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.rho < 1:
            raise ValueError(f"rho is {self.rho}; give the share of weights that goes, 0 to 1.")
        if self.share is not None and not 0 < self.share <= 1:
            raise ValueError(f"share is {self.share}; give a share of the pool, 0 to 1.")
        if self.epochs < 0 or min(self.batch_size, self.rank_multiple or 1, self.tokens or 1) < 1:
            raise ValueError(
                "epochs is at least 0; batch_size, rank_multiple and tokens are at least 1; found "
                f"{self.epochs}, {self.batch_size}, {self.rank_multiple} and {self.tokens}."
            )

    @property
    def part(self) -> float:
        """The share of the pool, also where none is given."""
        return SHARE if self.share is None else self.share

    def wanted(self, rows: int) -> int:
        """How many of the pool's rows the settings ask for."""
        return math.ceil(self.part * rows)

    def cost(self, rows: int, targets: int) -> float:
        from gristmill.selectors.influence._proxy_build import HELD_OUT, LEAST_PROBES, aligned_rows

        aligned = min(rows, aligned_rows(self.share, self.wanted(rows)))
        # probes and the measurement of the result are passes with a backward of activations
        measured = 2 * (min(rows, LEAST_PROBES) + 3 * min(rows, HELD_OUT))
        return float(measured + ALIGNING * aligned * self.epochs)

    @property
    def share_of_base(self) -> float:
        return 1 - self.rho

    def make(self, context: Context) -> Prepared:
        from gristmill.selectors.influence._proxy_build import HELD_OUT, LEAST_DRAWN, build

        pool = len(unique_ids(context.pool))
        wanted = self.wanted(pool)
        drawn = min(pool, HELD_OUT + max(wanted, LEAST_DRAWN))
        purpose = "low-rank proxy"
        frame = draw(context.pool, drawn, self.seed, purpose)
        order = sorted(frame["id"], key=lambda i: (uniform(self.seed, purpose, i), i))
        frame = pl.DataFrame({"id": order}).join(frame, on="id", how="left", maintain_order="left")
        settings = settings_of(dataclasses.replace(self, role="", base=""))
        passes = context.passes
        dtype = pick_dtype(passes.dtype, pick_device(passes.device))
        step = Step(
            name="low-rank-proxy",
            version=VERSION,
            settings={
                **settings,
                "wanted": wanted,
                "dtype": dtype,
                "limit": passes.max_length,
                "overlong": passes.overlong,
            },
            inputs={
                "model": context.models.files(self.base)[-1].fingerprint,
                "rows": digest(order),
            },
        )

        def make(loaded: LoadedModel) -> tuple[Any, Mapping[str, Any]]:
            made = build(self, frame, wanted, loaded)
            # the measurement of the result, probes, and every epoch of alignment
            count_read(context, loaded.files, frame, 2 + self.epochs)
            return made

        return _published(step, context, self.base, make)


def _published(step: Step, context: Context, base: str, make: Make) -> Prepared:
    """Make (or find) the entry of a smaller model."""
    files = context.models.files(base)[-1]

    def write(path: Path) -> None:
        loaded = dense(files, context.passes)
        model, facts = make(loaded)
        # a folder of its own beside the target; what a killed run leaves of it, the store removes
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".") as folder:
            raw = Path(folder) / "raw"
            (save if KEY in model.config.to_dict() else _save)(model, raw)
            settle(raw, path, files)
        text = json.dumps(dict(facts), indent=1, sort_keys=True) + "\n"
        (path / FACTS).write_text(text, "utf-8")

    def note(work: Path) -> Mapping[str, Any]:
        facts: Mapping[str, Any] = json.loads((work / "model" / FACTS).read_text("utf-8"))
        return facts

    store: Store = context.models.store
    entry = store.run(step, [Part(name="model", write=write)], note=note)
    notes = tuple(entry.note["notes"])
    context.log_all(notes)
    return Prepared(references=(str(entry.path / "model"),), weights=(1.0,), notes=notes)


def _save(model: Any, folder: Path) -> None:  # noqa: ANN401
    model.save_pretrained(folder)


def dense(files: ModelFiles, passes: Passes) -> LoadedModel:
    """The model in memory, an adapter merged into its base."""
    loaded = load(files, passes.chat(files), device=passes.device, dtype=passes.dtype)
    if files.layout == "adapter":
        loaded = dataclasses.replace(loaded, model=loaded.model.merge_and_unload())
    if loaded.model.config.to_dict().get(KEY):
        raise ValueError(
            f"model {files.reference!r} has low-rank layers already: give the model that it was "
            "made of."
        )
    return loaded
