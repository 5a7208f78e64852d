"""Final-token preference optimisation: the loss against its golden values, rows, and training."""

import dataclasses
import math
import shutil

import polars as pl
import pytest
import torch
from toy_training import (
    assert_close,
    first_gradient,
    one_thread,  # noqa: F401  (a fixture)
    plain_gradient,
    weights,
)

from gristmill.pipeline.finetune.final_tokens import flattened, parts
from gristmill.pipeline.finetune.ftpo import Ftpo, checked, job, train_ftpo, trainable_rows
from gristmill.pipeline.finetune.job import Run
from gristmill.pipeline.finetune.settings import Lora, Training
from gristmill.pipeline.finetune.trainer import fit
from gristmill.pipeline.models.load import load_tokenizer
from gristmill.pipeline.models.reference import resolve
from gristmill.pipeline.records.final_tokens import FINAL_TOKENS, row_id

CPU = Run(device="cpu")
LORA = Lora(rank=4, alpha=8.0, dropout=0.0, targets=("all-linear",))
FAST = Training(epochs=6, learning_rate=3e-3, batch_size=8, micro_batch=4, warmup=0.0)
ROWS = Ftpo(training=FAST, lora=LORA, least_chosen=2, stop_at=None)


def logits(*rows):
    return torch.tensor(rows, dtype=torch.float64)


def table(files, n=8):
    chat = load_tokenizer(files)
    rows = []
    for i in range(n):
        prefix = chat.tokenise(f"<|im_start|>user\nsay {i}<|im_end|>\n<|im_start|>assistant\nso")[0]
        rejected, *chosen = (chat.tokenise(c)[0][0] for c in ("t", "a", "b", "efgh"[i % 4]))
        rows.append(
            {
                "id": row_id(prefix, rejected),
                "pair": f"p{i}",
                "phrase": "tapestry",
                "prefix_ids": prefix,
                "rejected_token": rejected,
                "chosen_tokens": chosen,
                "rejected": "t",
                "chosen": ["a", "b", "efgh"[i % 4]],
                "tokenizer": files.tokenizer_sha,
            }
        )
    return pl.DataFrame(rows, schema=FINAL_TOKENS)


@pytest.fixture
def files(tiny, store):
    return resolve(str(tiny), store)


# ---------------------------------------------------------------- the loss


def test_the_loss_has_its_golden_values():
    z = logits((1, 0, 0.5, 3, -1), (4, 0, 6, 3, -1))
    ref = logits((0.8, 0, 0.6, 3.5, -1), (4, 0, 6, 3, -1))
    found = parts(z, ref, torch.tensor([[0, 2], [0, 2]]), torch.tensor([3, 3]))
    assert found.loss().tolist() == pytest.approx([4.26459884, 1.31326169], abs=1e-8)
    assert found.others_B.tolist() == found.involved_B.tolist() == [0, 0]
    assert found.wins_B.tolist() == [0, 1]


def test_ties_to_the_reference_count_the_tokens_in_question_apart():
    ref = logits((0.8, 0, 0.6, 3.5, -1))
    found = parts(logits((4, 2, 6, 3, -1)), ref, torch.tensor([[0, 2]]), torch.tensor([3]))
    # tokens 1 and 4 moved by 2 and 0; tokens 0, 2, 3 by 3.2, 5.4 and -0.5, of which 1 is free
    assert found.others_B.item() == pytest.approx(2.0)
    assert found.involved_B.item() == pytest.approx((2.2**2 + 4.4**2) / 3)
    whole = 1.31326169 + 0.4 * 2.0 + 0.25 * (2.2**2 + 4.4**2) / 3
    assert found.loss().item() == pytest.approx(whole)


def test_where_all_have_won_all_weigh_alike_and_padding_never_counts():
    z, ref = logits((6, 0, 7, 3, 9)), logits((6, 0, 7, 3, 9))
    alone = parts(z, ref, torch.tensor([[0, 2]]), torch.tensor([3]))
    padded = parts(z, ref, torch.tensor([[0, 2, -1, -1]]), torch.tensor([3]))
    expected = (math.log1p(math.exp(-1)) + math.log1p(math.exp(-2))) / 2
    assert alone.loss().item() == pytest.approx(expected)
    assert padded.loss().item() == pytest.approx(expected)
    assert padded.wins_B.item() == 1


def test_the_gradient_raises_the_chosen_and_lowers_the_rejected():
    z = logits((1, 0, 0.5, 3, -1)).requires_grad_()
    parts(z, z.detach(), torch.tensor([[0, 2]]), torch.tensor([3])).loss().sum().backward()
    gradient = z.grad[0].tolist()
    assert gradient[0] < 0
    assert gradient[2] < 0 < gradient[3]
    assert gradient[1] == gradient[4] == 0


# ---------------------------------------------------------------- rows


def test_weights_flatten_what_occurs_often():
    rows = pl.DataFrame(
        {"rejected_token": [7, 7, 7, 7, 9], "chosen_tokens": [[1], [1], [1], [1], [2]]}
    )
    assert flattened(rows, rejected=0, chosen=0).to_list() == [1] * 5
    even = flattened(rows, rejected=1, chosen=0)
    assert even.head(4).sum() == pytest.approx(even[4])
    partly = flattened(rows)
    assert partly[4] / partly[0] == pytest.approx(4**0.8 * 4**0.2)
    assert partly.mean() == pytest.approx(1)


def test_a_place_is_one_row_and_rows_of_few_choices_are_left_out(files):
    frame = table(files)
    halves = [
        frame.with_columns(pl.col("chosen_tokens", "chosen").list.slice(at, 2)) for at in (0, 1)
    ]
    assert checked(pl.concat(halves), files).equals(checked(frame, files))
    settings = dataclasses.replace(ROWS, least_chosen=4)
    rows, reasons, _ = trainable_rows(frame, files, settings)
    assert rows.is_empty()
    assert reasons == {"few_chosen_tokens": 8}
    with pytest.raises(ValueError, match="lower least_chosen"):
        job(frame, files, settings, "cpu")


def test_a_long_row_loses_its_beginning(files):
    short = dataclasses.replace(FAST, max_length=5)
    rows, reasons, shortened = trainable_rows(
        table(files), files, dataclasses.replace(ROWS, training=short)
    )
    assert shortened == 8
    assert not reasons
    assert load_tokenizer(files).tokenizer.decode(rows["prefix_ids"][0]) == "ant\nso"[-5:]
    skip = dataclasses.replace(short, overlong="skip")
    _, reasons, _ = trainable_rows(table(files), files, dataclasses.replace(ROWS, training=skip))
    assert reasons == {"too_long": 8}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tokenizer": pl.lit("other")}, "8 of 8 rows are of another tokenizer"),
        ({"rejected_token": pl.col("chosen_tokens").list.first()}, "both chooses and rejects"),
        ({"prefix_ids": pl.lit([], pl.List(pl.Int32))}, "has no prefix"),
    ],
)
def test_rows_that_cannot_be_trained_on_are_refused(files, change, message):
    with pytest.raises(ValueError, match=message):
        checked(table(files).with_columns(**change), files)


# ---------------------------------------------------------------- training


def test_the_first_gradient_is_that_of_the_formula(files, tiny, tmp_path):
    settings = Ftpo(
        training=dataclasses.replace(FAST, max_grad_norm=1e9, batch_size=8, micro_batch=4),
        lora=None,
        least_chosen=2,
        stop_at=None,
    )
    frame = table(files)
    found = first_gradient(job(frame, files, settings, "cpu"), settings.training, tmp_path)
    rows, _, _ = trainable_rows(frame, files, settings)

    def expected(model):
        total = 0.0
        for row in rows.iter_rows(named=True):
            z_V = model(input_ids=torch.tensor([row["prefix_ids"]])).logits[:, -1]
            chosen = torch.tensor([row["chosen_tokens"]])
            loss = parts(z_V, z_V.detach(), chosen, torch.tensor([row["rejected_token"]])).loss()
            total = total + row["weight"] * loss[0]
        return total / rows.height

    assert_close(found, plain_gradient(tiny, expected))


def test_an_adapter_learns_to_avoid_the_token_and_stops_when_it_has(files, tiny, store):
    settings = dataclasses.replace(ROWS, stop_at=0.9, training=dataclasses.replace(FAST, epochs=60))
    trained = train_ftpo(table(files), str(tiny), settings, store, run=CPU)
    share = trained.metrics["win_share"]
    assert share[0] < 0.9 <= share[-1]
    assert (share.head(-1) < 0.9).all(), "it stops at once"
    assert trained.metrics.height < 60
    assert trained.final.step == trained.metrics["step"][-1] == trained.checkpoints[-1].step
    assert any("ended after step" in note and "90%" in note for note in trained.notes)
    assert (trained.final.path / "adapter_config.json").exists()
    again = train_ftpo(table(files).reverse(), str(tiny), settings, store, run=CPU)
    assert again.reference == trained.reference


def test_a_run_killed_after_it_reached_its_goal_adds_no_step(files, tmp_path):
    settings = dataclasses.replace(ROWS, stop_at=0.9, training=dataclasses.replace(FAST, epochs=60))
    state = tmp_path / "state"
    whole = fit(job(table(files), files, settings, "cpu"), settings.training, state, CPU)
    last = state / f"checkpoint-{whole.state.global_step}"
    before = weights(last)
    (state / "history.json").unlink()  # the kill came before it was written
    shutil.copytree(state, tmp_path / "copy")
    again = fit(job(table(files), files, settings, "cpu"), settings.training, state, CPU)
    assert again.state.global_step == whole.state.global_step
    assert weights(last) == before
    assert (state / "history.json").exists()
