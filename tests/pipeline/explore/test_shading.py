"""A row as its model reads it: which tokens are trained, and the losses that a run observed."""

from types import SimpleNamespace

import published
import pytest
from rows import pair_rows

from gristmill.pipeline.explore.observed import Tables
from gristmill.pipeline.explore.shading import Shading
from gristmill.pipeline.signals.views import Dialogue


def shading(chat, losses):
    """With a tokenizer at hand, and an observation per view: name -> losses."""
    found = {
        name: (Tables(column=f"losses.{name}.answer", model="m", settings={}, paths=()), values)
        for name, values in losses.items()
    }
    observed = SimpleNamespace(losses=lambda ident, view: found.get(view))
    made = Shading(opened=SimpleNamespace(manifest={}), observed=observed)
    made.__dict__["_chat"] = chat  # what it would load from this machine
    return made


@pytest.fixture
def pair():
    row = pair_rows(1)[0]
    turns = {k: [published.turn(m["role"], m["content"]) for m in row[k]] for k in
             ("prompt", "chosen", "rejected")}  # fmt: skip
    return {"id": "x", "tools": None, **turns}


def test_a_pair_is_read_by_each_of_its_answers(pair_chat, pair):
    counts = {}
    for side in ("chosen", "rejected"):
        view = Dialogue(side=side)
        counts[side] = sum(turn != 0 for turn in view.encode(pair, pair_chat).turn)
    losses = {"dialogue_rejected": [1.5] * counts["rejected"]}
    chosen, rejected = shading(pair_chat, losses).of(pair)
    assert (chosen.side, rejected.side) == ("chosen", "rejected")
    for one in (chosen, rejected):
        trained = "".join(text for text, is_trained, _ in one.tokens if is_trained)
        assert trained.startswith(pair[one.side][0]["content"][:10])
    assert "no token losses were observed" in chosen.note
    assert "their mean loss is 1.500 nats" in rejected.note
    assert {loss for _, is_trained, loss in rejected.tokens if is_trained} == {1.5}


def test_losses_of_another_rendering_are_not_laid_over_this_one(pair_chat, pair):
    _, rejected = shading(pair_chat, {"dialogue_rejected": [1.5]}).of(pair)
    assert "under another template or limit" in rejected.note
    assert all(loss is None for _, _, loss in rejected.tokens)


def test_a_document_is_trained_as_a_whole_and_no_tokenizer_is_a_sentence(pair_chat):
    (one,) = shading(pair_chat, {}).of({"id": "x", "text": "Of rivers."})
    assert one.side == ""
    assert "".join(text for text, is_trained, _ in one.tokens if is_trained).startswith(
        "Of rivers."
    )
    (none,) = Shading(opened=SimpleNamespace(manifest={}), observed=SimpleNamespace(store=None)).of(
        {"id": "x", "text": "Of rivers."}
    )
    assert none.note == "This ledger names no tokenizer, so the trained tokens are not known."
