"""Fine-tuning: SFT, preference optimisation and reward models, as thin calls of TRL and PEFT.

A stage turns records into token rows (`data`), hands a TRL trainer to the one loop (`trainer`),
and publishes checkpoints (`checkpoints`) as an entry of the store: ordinary model or adapter
folders, each a model reference.

| file | holds |
|---|---|
| `settings.py` | what a run depends on: `Training`, `Lora` |
| `data.py` | records to token rows; their order, keyed by id; batches |
| `weights.py` | per-example weights, for any TRL trainer |
| `jobs.py` | a run as a step of the store |
| `trainer.py` | the loop: arguments, resume, divergence, memory |
| `checkpoints.py` | `Trained`, `Checkpoint`, `optimizer_state` |
| `models.py` | trainable models: full, fresh adapter, continued adapter |
| `sft.py`, `dpo.py`, `reward.py` | one stage each: the only callers of TRL |
"""
