"""Backtracking: a scripted model that says a banned phrase, and what it says in its place."""

from dataclasses import replace

import pytest
from scripted_model import Script, ScriptCache

from gristmill.pipeline.models.completion import backtracking
from gristmill.pipeline.models.completion.backtracking import Backtracking
from gristmill.pipeline.models.completion.client import complete
from gristmill.pipeline.models.completion.local import Local
from gristmill.pipeline.models.completion.phrase_pattern import pattern
from gristmill.pipeline.models.completion.requests import Request, Sampling
from gristmill.pipeline.models.completion.written import Written
from gristmill.pipeline.models.load import LoadedModel, load_tokenizer
from gristmill.pipeline.models.reference import resolve
from gristmill.pipeline.records.store import Store

TEXTS = {
    "It is a rich tapestry of life.": 10.0,
    "It is a rich mixture of life.": 9.0,
    "It is a warm tapestry of life.": 9.5,
    "It is a vast river.": 9.0,
    "It is a plain room.": 8.5,
    "It is a dull Rich Tapestry.": 8.0,
    "It is a Rich, tapestry.": 9.9,
}
ASKED = Request(
    id="q",
    messages=[{"role": "user", "content": "What is it?"}],
    sampling=Sampling(max_tokens=60),
)


@pytest.fixture(scope="module")
def make(tiny, tmp_path_factory):
    root = tmp_path_factory.mktemp("store")
    files = resolve(str(tiny), Store(root=root))

    def made(texts=TEXTS):
        chat = load_tokenizer(files)
        model = Script(texts, chat, "<|im_start|>assistant\n")
        return Local(
            loaded=LoadedModel(files=files, model=model, chat=chat, device="cpu", dtype="float32")
        )

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backtracking, "DynamicCache", ScriptCache)
        yield made


def write(local, *phrases, asked=ASKED, **settings):
    backend = Backtracking(of=local, phrases=phrases, **settings)
    reply = backend.write(local.row(0, asked))
    return (Written.from_json(reply.text) if reply.text else None), reply


def said(local, tokens):
    return [local.text([t]) for t in tokens]


def test_it_goes_back_to_the_token_that_began_the_phrase(make):
    local = make()
    found, reply = write(local, "rich tapestry")
    assert found.text == "It is a warm tapestry of life."
    assert found.standing == ()
    first, second = found.places
    assert local.text(first.before) == local.text(second.before) == "It is a "
    assert said(local, [first.rejected, second.rejected]) == ["r", "R"]
    # "R" began the phrase in another spelling, so no place chooses it
    assert said(local, first.chosen) == said(local, second.chosen) == ["w", "v", "p", "d"]
    assert found.prompt == tuple(local.row(0, ASKED).ids)
    assert reply.finish == "stop"
    assert reply.tokens_out > len(found.text), "what was taken back was drawn as well"


def test_without_phrases_an_answer_is_the_models_own(make):
    local = make()
    found, _ = write(local)
    assert (found.text, found.places) == ("It is a rich tapestry of life.", ())
    assert write(local, "tapestr")[0].text == found.text, "a part of a word is no phrase"
    sampled = replace(ASKED, sampling=Sampling(max_tokens=60, temperature=2.0), seed=3)
    texts = {write(local, asked=replace(sampled, seed=s))[0].text for s in range(6)}
    assert len(texts) > 1
    plain = write(local, asked=sampled)[0].text
    other = next(t for t in TEXTS if t != plain)
    assert write(local, other.split(". ")[0], asked=sampled)[0].text == plain


def test_a_phrase_at_the_end_is_found_and_one_that_goes_on_is_not(make):
    local = make({"So a testament": 5.0, "So a testamentary gift": 4.0, "So be it": 3.0})
    assert write(local, "a testament")[0].text == "So be it"
    local = make({"So a testamentary gift": 5.0, "So be it": 3.0})
    assert write(local, "a testament")[0].text == "So a testamentary gift"


def test_a_phrase_stands_where_nothing_else_can_be_said(make):
    local = make({"Oh well": 5.0, "oh well": 4.0})
    found, _ = write(local, "oh", attempts=1)
    assert (found.text, found.standing) == ("oh well", ("oh",))
    assert said(local, [p.rejected for p in found.places]) == ["O"]
    spent = write(make(), "rich tapestry", patience=1)[1].tokens_out
    assert spent <= 60 + 1 + len("It is a warm tapestry of life.")


def test_few_alternatives_and_unlikely_ones_are_left_out(make):
    local = make()
    assert len(write(local, "rich tapestry", alternatives=2)[0].places[0].chosen) == 2
    likely = write(local, "rich tapestry", min_p=0.3)[0].places[0].chosen
    assert said(local, likely) == ["w", "v"]  # e^-1 of the likeliest and above


def test_it_is_a_back_end_whose_answers_are_kept(make, tmp_path):
    local = make()
    backend = Backtracking(of=local, phrases=("rich tapestry",))
    cache = tmp_path / "c.sqlite"
    (first,) = complete([ASKED], backend, cache=cache)
    read = local.loaded.model.read
    (again,) = complete([ASKED], backend, cache=cache)
    assert local.loaded.model.read == read
    assert Written.from_json(again.value) == Written.from_json(first.value)
    assert Written.from_json(first.value).text == "It is a warm tapestry of life."
    other = Backtracking(of=local, phrases=("warm",))
    assert other.identity != backend.identity
    long = replace(ASKED, messages=[{"role": "user", "content": "x" * 2_000}])
    (failed,) = complete([long], backend)
    assert failed.reason.startswith("context_too_long")


@pytest.mark.parametrize(
    ("phrase", "text", "there"),
    [
        ("a testament to", "A  testament, TO it", True),
        ("a testament to", "a testament today", False),
        ("don't", "I don't.", True),
        ("織錦", "豐富的織錦。", True),
        ("tapestry", "tapestry_x", False),
    ],
)
def test_phrases_are_found_by_their_words(phrase, text, there):
    assert bool(pattern(phrase).search(text)) is there


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"phrases": ("...",)}, "has no words"),
        ({"attempts": 0}, "attempts is 0"),
        ({"min_p": 0.0}, "min_p is 0.0"),
    ],
)
def test_settings_that_do_not_fit_are_refused(make, settings, message):
    with pytest.raises(ValueError, match=message):
        Backtracking(of=make(), **{"phrases": (), **settings})
