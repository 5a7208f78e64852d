"""A small preference run: pairs, a chat tokenizer, and a target that has been tuned."""

from ingested import dataset
from rows import pair_rows

from gristmill.pipeline.contracts import Context
from gristmill.pipeline.finetune.dpo import Dpo, train_dpo
from gristmill.pipeline.finetune.job import Run
from gristmill.pipeline.finetune.settings import Lora, Training
from gristmill.pipeline.models.load import load_tokenizer
from gristmill.pipeline.models.passes import Passes
from gristmill.pipeline.models.reference import resolve
from gristmill.pipeline.models.roles import Models

LORA = Lora(rank=2, alpha=4.0, dropout=0.0)


QUICK = Dpo(
    training=Training(
        epochs=1,
        batch_size=8,
        micro_batch=8,
        learning_rate=1e-2,
        max_length=128,
        checkpoints="last",
    ),
    lora=LORA,
)


def pair(prompt="Say it", chosen="Gladly.", rejected="No.", before=()):
    return {
        "prompt": [*before, {"role": "user", "content": prompt}],
        "chosen": [{"role": "assistant", "content": chosen}],
        "rejected": [{"role": "assistant", "content": rejected}],
    }


def pair_chat(store, tiny):
    return load_tokenizer(resolve(str(tiny), store), limit=64)


def tuned(store, tiny, tmp_path):
    """Roles with a warmed-up adapter, and the pairs around them."""
    pool = dataset(store, tmp_path, "pool", pair_rows(14))
    targets = dataset(store, tmp_path, "targets", pair_rows(24)[18:])
    made = train_dpo(
        pool.frame(["id", "prompt", "chosen", "rejected"]),
        str(tiny),
        QUICK,
        store,
        run=Run(device="cpu"),
    )
    roles = {"target": (made.reference,), "reference": (str(tiny),)}
    return Context(
        models=Models(store=store, roles=roles),
        pool=pool,
        reference=targets,
        passes=Passes(device="cpu"),
        log=lambda _: None,
    )
