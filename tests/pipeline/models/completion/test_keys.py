"""Keys of endpoints: sent to the endpoint, and found nowhere else, whatever it sends back."""

import json

import pytest
from fake_openai import FakeOpenAI, send

from gristmill.pipeline.models.completion.batch import BatchEndpoint
from gristmill.pipeline.models.completion.client import Request, complete
from gristmill.pipeline.models.completion.endpoint import Endpoint

KEY = "sk-canary/4f6e9a1b2c3d"
NAME = "GRISTMILL_TEST_KEY"
ASKED = [Request(id="a", messages=[{"role": "user", "content": "q"}])]


def endpoint(fake, **more) -> Endpoint:
    return Endpoint(
        url=fake.url, model="m", key_variable=NAME, attempts=1, backoff=0.01, workers=1, **more
    )


@pytest.mark.parametrize("before", [0, 1, 190, 290])
def test_an_error_that_repeats_a_key_is_cut_after_the_key_is_out(monkeypatch, before):
    """An excerpt that ends within a key would hold most of it, and no longer match it."""
    monkeypatch.setenv(NAME, KEY)
    said = "x" * before + KEY
    for body in (said.encode(), json.dumps({"error": {"message": said}}).encode()):
        with FakeOpenAI() as fake:
            fake.respond = lambda fault, asked, writer, body=body: send(writer, 400, body)
            (result,) = complete(ASKED, endpoint(fake))
        assert "http_400" in result.reason
        assert KEY[:6] not in result.reason


def test_an_answer_that_repeats_a_key_is_kept_without_it(monkeypatch, tmp_path):
    monkeypatch.setenv(NAME, KEY)
    for slash in ("/", r"\/"):
        with FakeOpenAI() as fake:
            raw = json.dumps(
                fake.completion({"messages": ASKED[0].messages, "model": "m"}, text=f"my {KEY}")
            )
            body = raw.replace("/", slash).encode()
            fake.respond = lambda fault, asked, writer, body=body: send(writer, 200, body)
            (result,) = complete(ASKED, endpoint(fake), cache=tmp_path / "c.db")
        assert result.value == "my ***"
    assert KEY.encode() not in b"".join(p.read_bytes() for p in tmp_path.iterdir())


def test_a_word_in_the_place_of_a_key_changes_no_answer(monkeypatch):
    monkeypatch.setenv(NAME, "EMPTY")
    with FakeOpenAI(answer=lambda body: "an EMPTY room") as fake:
        (result,) = complete(ASKED, endpoint(fake))
    assert result.value == "an EMPTY room"


@pytest.mark.parametrize("key", [f"{KEY}\nsecond", f"{KEY} ", f"{KEY}é", f"a {KEY}"])
def test_a_key_that_no_header_can_hold_is_not_repeated(monkeypatch, key):
    monkeypatch.setenv(NAME, key)
    with FakeOpenAI() as fake:
        if key.strip() == KEY:
            assert next(iter(complete(ASKED, endpoint(fake)))).status == "ok"
            return
        with pytest.raises(ValueError, match=f"{NAME} holds what no API key does") as error:
            list(complete(ASKED, endpoint(fake)))
    assert "sk-" not in str(error.value)


@pytest.mark.parametrize("name", [KEY, "hf_abcdefghij", "sk_live", "A B", ""])
def test_a_key_in_the_place_of_its_variables_name_is_refused_unseen(name):
    with pytest.raises(ValueError, match="put the key into one, and give its name") as error:
        Endpoint(url="http://host/v1", model="m", key_variable=name)
    assert not name or name not in str(error.value)


def test_a_batch_reads_its_lines_and_its_errors_without_the_key(monkeypatch):
    monkeypatch.setenv(NAME, KEY)
    text = "one\u2028two\x85three"
    with FakeOpenAI(answer=lambda body: f"{text} {KEY}") as fake:
        backend = BatchEndpoint(endpoint=endpoint(fake), poll=0.01)
        (result,) = complete(ASKED, backend)
    assert result.value == f"{text} ***"
