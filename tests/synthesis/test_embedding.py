"""The embedder's warm-up: rows by hand, and a tiny model that learns whose pair is whose."""

import numpy as np
import polars as pl
import pytest

from gristmill.pipeline.models.reference import resolve
from gristmill.pipeline.numerics.similarity import unit
from gristmill.pipeline.records.store import Store
from gristmill.synthesis.embedding import Loader, Warmup, embed_documents, embedder

WORDS = "amber birch cedar delta ember flint grove heron iris jade koala lotus"
NAMES = WORDS.split()


@pytest.fixture
def store(tmp_path):
    (tmp_path / "store").mkdir()
    return Store(root=tmp_path / "store")


@pytest.fixture
def tiny(tmp_path, store):
    """A sentence embedder of two small layers with random weights and a vocabulary of words."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
    from transformers import BertConfig, BertModel, BertTokenizerFast

    words = [*NAMES, *(f"{n}s" for n in NAMES), "the", "what", "about"]
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]
    folder = tmp_path / "tiny"
    folder.mkdir()
    (folder / "vocab.txt").write_text("\n".join(vocabulary), "utf-8")
    BertTokenizerFast.from_pretrained(str(folder)).save_pretrained(folder)
    torch.manual_seed(0)
    BertModel(
        BertConfig(
            vocab_size=len(vocabulary),
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=64,
            max_position_embeddings=64,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
        )
    ).save_pretrained(folder)
    bert = Transformer(str(folder))
    pool = Pooling(bert.get_embedding_dimension(), "mean")
    target = tmp_path / "sentence"
    SentenceTransformer(modules=[bert, pool], device="cpu").save_pretrained(
        str(target), create_model_card=False
    )
    return resolve(str(target), store)


def test_rows_hold_no_own_pair_and_the_mined_ranks():
    """Six documents on an arc, no two gaps alike; pair k of document k lies at its angle."""
    angle = {f"{kind}{k}": k * k * 0.05 for k in range(6) for kind in "dq"}

    def embed(texts):
        return np.array([[np.cos(angle[t]), np.sin(angle[t])] for t in texts])

    pairs = [(f"d{k}", f"q{k}") for k in range(6)]
    rows = Warmup(negatives=2, mined=(2, 3), pool=15).rows_of(pairs, embed)
    assert rows["anchor"] == [d for d, _ in pairs]
    assert rows["positive"] == [q for _, q in pairs]
    found = list(zip(rows["anchor"], rows["negative_1"], rows["negative_2"], strict=True))
    for d, *negatives in found:
        k = int(d[1])
        others = sorted((abs(angle[f"q{j}"] - angle[d]), f"q{j}") for j in range(6) if j != k)
        assert set(negatives) == {q for _, q in others[1:3]}  # the nearest may be an answer too
    few = Warmup(negatives=7).rows_of(pairs[:3], embed)
    assert {k for k in few if k.startswith("negative")} == {"negative_1", "negative_2"}


def test_the_warm_up_moves_documents_to_their_pairs(tiny, store):
    pairs = [(f"the {n} the {n}", f"what about {n}s") for n in NAMES]
    load = Loader(device="cpu")

    def hits(files):
        embed = embedder(load(files))
        near_NN = embed([d for d, _ in pairs]) @ embed([q for _, q in pairs]).T
        return (near_NN.argmax(axis=1) == np.arange(len(pairs))).mean()

    warm = Warmup(epochs=40, learning_rate=3e-3, rows=6, negatives=3, mined=(1, 200))
    entry = warm.tune(pairs, tiny, load, store)
    tuned = resolve(str(entry.path / "model"), store)
    before, after = hits(tiny), hits(tuned)
    assert before <= 0.5  # chance is 1 of 12
    assert after == 1.0
    assert tuned.layout == "sentence"

    def refuse(files):
        raise AssertionError("a tuned model is not tuned again")

    assert warm.tune(pairs[::-1], tiny, refuse, store).content == entry.content


def test_a_rerun_elsewhere_gives_the_same_weights(tiny, store, tmp_path):
    pairs = [(f"the {n}", f"what about {n}s") for n in NAMES[:6]]
    other = Store(root=tmp_path / "other")
    other.root.mkdir()
    warm, load = Warmup(epochs=2, rows=3, negatives=2), Loader(device="cpu")
    one, two = (warm.tune(pairs, tiny, load, s) for s in (store, other))
    assert one.content == two.content


def test_one_document_is_nothing_to_tell_apart(tiny, store):
    with pytest.raises(ValueError, match="1 documents and needs 2"):
        Warmup().tune([("d", "q1"), ("d", "q2")], tiny, Loader(), store)


def test_documents_are_embedded_once_and_stand_in_their_order(tiny, store):
    texts = [f"the {n}" for n in NAMES]
    frame = pl.DataFrame({"id": [f"i{k}" for k in range(12)], "text": texts})
    load = Loader(device="cpu")
    rows_ND = embed_documents(frame, tiny, load, store)
    one_ND = embedder(load(tiny))(texts)
    assert np.allclose(rows_ND, one_ND, atol=1e-5)  # float32, other batches
    assert np.allclose(rows_ND, unit(rows_ND), atol=1e-6)

    def refuse(files):
        raise AssertionError("the rows are in the store")

    back = embed_documents(frame.reverse(), tiny, refuse, store)
    assert np.array_equal(back, rows_ND[::-1])


def test_a_text_has_the_same_bits_whatever_stands_beside_it(tiny):
    embed = embedder(Loader(device="cpu")(tiny))
    alone = embed(["the amber"])
    beside = embed(["what about the heron the jade the iris", "the amber", "lotus"])
    assert np.array_equal(alone[0], beside[1])
