"""The local back end against transformers itself, against its own probabilities, and served."""

import asyncio
import logging
import math
import os
import socket
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from functools import wraps

import httpx
import pytest
import torch
from tolerances import LOG_PROB
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config, GPT2LMHeadModel

from gristmill.pipeline.models.completion import sampling as completion_draw
from gristmill.pipeline.models.completion.client import (
    Failure,
    Request,
    Sampling,
    complete,
    request_key,
)
from gristmill.pipeline.models.completion.endpoint import Endpoint
from gristmill.pipeline.models.completion.local import Local
from gristmill.pipeline.models.load import load
from gristmill.pipeline.models.reference import resolve
from gristmill.pipeline.records.store import Store

CLOSE = 1e-4  # two logits nearer than this may swap places by rounding

SUBJECTS = ("tea", "a river in spring", "the 日本語 alphabet", "sums", "x" * 60)


@pytest.fixture(scope="module")
def folder(tiny, tmp_path_factory):
    """The tiny model with larger weights and an output layer of its own: its answers vary."""
    path = tmp_path_factory.mktemp("wild") / "model"
    model = AutoModelForCausalLM.from_pretrained(tiny)
    model.config.tie_word_embeddings = False
    model.lm_head.weight = torch.nn.Parameter(torch.empty_like(model.lm_head.weight))
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for weight in (p for p in model.parameters() if p.dim() == 2):
            weight.normal_(0, 0.2, generator=generator)
    model.save_pretrained(path)
    AutoTokenizer.from_pretrained(tiny).save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def loaded(folder, tmp_path_factory):
    root = tmp_path_factory.mktemp("store")
    return load(resolve(str(folder), Store(root=root)), device="cpu")


def ask(i, **settings):
    text = f"Question {i}: what of {SUBJECTS[i % len(SUBJECTS)]}?" + " Say more." * (i % 4)
    return Request(id=f"r{i}", messages=[{"role": "user", "content": text}], **settings)


def replies(backend, requests):
    """Outcomes of the back end itself, in order."""

    async def collect():
        async with backend.session() as answering:
            return [pair async for pair in answering(requests)]

    pairs = dict(asyncio.run(collect()))
    return [pairs[i] for i in range(len(requests))]


def texts(backend, requests):
    return [reply.text for reply in replies(backend, requests)]


def prompt_ids(loaded, request):
    chat = loaded.chat
    text = chat.tokenizer.apply_chat_template(
        request.messages, add_generation_prompt=True, tokenize=False
    )
    return chat.tokenizer(text, add_special_tokens=False)["input_ids"]


def last_logits(loaded, ids):
    with torch.inference_mode():
        return loaded.model(torch.tensor([ids])).logits[0, -1].double()


@pytest.fixture(scope="module")
def learned(loaded, tiny, tmp_path_factory):
    """A tiny GPT-2: its positions are learned, so one that is off by the padding shows."""
    path = tmp_path_factory.mktemp("learned") / "model"
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    config = GPT2Config(
        vocab_size=len(tokenizer),
        n_positions=512,
        n_embd=32,
        n_layer=2,
        n_head=2,
        initializer_range=0.4,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        GPT2LMHeadModel(config).save_pretrained(path)
    tokenizer.save_pretrained(path)
    root = tmp_path_factory.mktemp("learned-store")
    return load(resolve(str(path), Store(root=root)), device="cpu")


@pytest.mark.parametrize("model", ["loaded", "learned"])
def test_greedy_batches_say_what_generate_says_one_at_a_time(model, request):
    check_against_generate(request.getfixturevalue(model))


def check_against_generate(loaded):
    requests = [ask(i, sampling=Sampling(max_tokens=12 + i % 3)) for i in range(12)]
    found = replies(Local(loaded=loaded, rows=5), requests)
    assert len({reply.text for reply in found}) > 6  # the model is not stuck on one answer
    tokenizer = loaded.chat.tokenizer
    for request, reply in zip(requests, found, strict=True):
        ids = prompt_ids(loaded, request)
        longest = request.sampling.max_tokens
        with torch.inference_mode():
            out = loaded.model.generate(
                torch.tensor([ids]),
                attention_mask=torch.ones(1, len(ids), dtype=torch.long),
                max_new_tokens=longest,
                do_sample=False,
            )[0, len(ids) :].tolist()
        assert reply.tokens_in == len(ids)
        if reply.text != tokenizer.decode(out, skip_special_tokens=True):
            said = tokenizer(reply.text, add_special_tokens=False)["input_ids"]
            at = next(i for i, (a, b) in enumerate(zip(said, out, strict=False)) if a != b)
            best = last_logits(loaded, ids + out[:at]).topk(2).values
            assert best[0] - best[1] < CLOSE
        else:
            ended = out[-1] == tokenizer.eos_token_id
            assert (reply.finish, reply.tokens_out) == ("stop" if ended else "length", len(out))


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_row_says_the_same_whatever_stands_beside_it(loaded, temperature):
    sampling = Sampling(max_tokens=16, temperature=temperature, top_p=0.9)
    requests = [ask(i, sampling=sampling, sample=i // 10) for i in range(20)]
    whole = texts(Local(loaded=loaded), requests)
    assert texts(Local(loaded=loaded, rows=3), requests) == whole
    assert texts(Local(loaded=loaded, rows=1), requests) == whole
    assert texts(Local(loaded=loaded, tokens=300), requests[::-1]) == whole[::-1]


def test_draws_follow_the_models_probabilities(loaded):
    """2,000 first tokens of one prompt, by a chi-square test against the softmax itself."""
    count, temperature = 2_000, 1.3
    sampling = Sampling(max_tokens=1, temperature=temperature)
    rows = [Local(loaded=loaded).row(i, ask(0, sampling=sampling, sample=i)) for i in range(count)]
    logits = last_logits(loaded, rows[0].ids)
    drawn = Counter(completion_draw.draw(rows, logits.expand(count, -1).clone()))
    p_V = (logits / temperature).softmax(-1)
    likely = [int(i) for i in (p_V * count >= 5).nonzero()]
    rest = count - sum(drawn[i] for i in likely)
    expected = [float(p_V[i]) * count for i in likely] + [float(1 - p_V[likely].sum()) * count]
    observed = [drawn[i] for i in likely] + [rest]
    chi = sum((o - e) ** 2 / e for o, e in zip(observed, expected, strict=True))
    freedom = len(likely)
    # 5 standard deviations above the mean of the distribution: one chance in a million or so
    assert chi < freedom + 5 * math.sqrt(2 * freedom)
    assert freedom > 10


def test_each_token_has_a_draw_of_its_own(loaded):
    """At a very high temperature all tokens are alike: 60 draws give about 54 of the 259."""
    backend = Local(loaded=loaded)
    rows = [
        backend.row(i, ask(0, sampling=Sampling(max_tokens=60, temperature=1e6), sample=i))
        for i in range(6)
    ]
    backend._generate(rows)
    drawn = [token for row in rows for token in row.out]
    assert len(drawn) > 100  # some may have met the end token
    expected = 259 * (1 - (1 - 1 / 259) ** len(drawn))
    assert len(set(drawn)) == pytest.approx(expected, rel=0.15)


@pytest.mark.parametrize(
    ("cut", "kept"),
    [({"top_k": 3}, 3), ({"top_p": 0.5}, None), ({"top_k": 5, "top_p": 0.6}, None)],
    ids=str,
)
def test_top_k_and_top_p_keep_what_they_say(loaded, cut, kept):
    sampling = Sampling(max_tokens=1, temperature=1.0, **cut)
    rows = [Local(loaded=loaded).row(i, ask(1, sampling=sampling, sample=i)) for i in range(600)]
    logits = last_logits(loaded, rows[0].ids)
    seen = set(completion_draw.draw(rows, logits.expand(600, -1).clone()))
    p_V, order_V = logits.softmax(-1).sort(descending=True)
    if kept is None:  # by hand: the shortest run of likeliest tokens that reaches top_p
        p_V = p_V[: cut.get("top_k", len(p_V))]
        p_V = p_V / p_V.sum()
        kept = 1 + int((p_V.cumsum(0) < cut["top_p"]).sum())
    allowed = {int(i) for i in order_V[:kept]}
    assert seen <= allowed
    assert int(order_V[0]) in seen
    assert len(seen) > kept / 2


def test_samples_and_seeds_differ_and_repeat(loaded):
    backend, sampling = Local(loaded=loaded), Sampling(max_tokens=12, temperature=1.0)
    requests = [ask(0, sampling=sampling, sample=i) for i in range(6)]
    requests += [ask(0, sampling=sampling, seed=i) for i in range(1, 6)]
    first = texts(backend, requests)
    assert len(set(first)) == len(first)
    assert texts(backend, requests) == first


def test_presence_penalty_forbids_repeats_when_it_is_large(loaded):
    penalised = Sampling(max_tokens=30, presence_penalty=100.0)
    backend = Local(loaded=loaded)
    row = backend.row(0, ask(0, sampling=penalised))
    backend._generate([row])
    assert len(set(row.out)) == len(row.out)
    plain = backend.row(0, ask(0, sampling=Sampling(max_tokens=30)))
    backend._generate([plain])
    assert len(set(plain.out)) < len(plain.out)


def test_stop_texts_end_the_answer_and_are_left_out(loaded):
    backend = Local(loaded=loaded)
    (free,) = replies(backend, [ask(2, sampling=Sampling(max_tokens=24))])
    stop = free.text[5:8]
    (held,) = replies(backend, [ask(2, sampling=Sampling(max_tokens=24, stop=("§§", stop)))])
    assert held.text == free.text[: free.text.index(stop)]
    assert held.finish == "stop"
    assert held.tokens_out < free.tokens_out


def test_the_end_token_ends_the_answer(loaded):
    end = loaded.chat.tokenizer.eos_token_id
    weight = loaded.model.lm_head.weight
    old = weight[end].clone()
    try:
        weight[end] *= 3  # likely now and then
        sampling = Sampling(max_tokens=200, temperature=1.0)
        found = replies(Local(loaded=loaded), [ask(i, sampling=sampling) for i in range(12)])
    finally:
        weight[end] = old
    ended = [reply for reply in found if reply.finish == "stop"]
    assert ended
    assert all(reply.tokens_out < 200 for reply in ended)
    assert all("<|im_end|>" not in reply.text for reply in found)


def test_a_prompt_that_does_not_fit_fails_alone(loaded):
    long = Request(id="long", messages=[{"role": "user", "content": "word " * 400}])
    fits = ask(0, sampling=Sampling(max_tokens=4, temperature=1.0))
    results = list(complete([fits, long, fits], Local(loaded=loaded), keep_cut=True))
    assert [r.status for r in results] == ["ok", "failed", "ok"]
    assert results[1].reason.startswith("context_too_long: ")


def test_a_template_that_refuses_fails_the_row_with_its_words(loaded):
    template = "{{ raise_exception('roles must alternate') }}"
    strict = replace(loaded, chat=replace(loaded.chat, template=template))
    (result,) = complete([ask(0)], Local(loaded=strict))
    assert result.reason == "template_error: roles must alternate"


def test_out_of_memory_halves_the_batch_and_says_so(loaded, monkeypatch, caplog):
    requests = [ask(i, sampling=Sampling(max_tokens=6, temperature=1.0)) for i in range(10)]
    expected = texts(Local(loaded=loaded), requests)
    forward, sizes = type(loaded.model).forward, []

    @wraps(forward)
    def small(self, input_ids=None, **rest):
        sizes.append(len(input_ids))
        if len(input_ids) > 3:
            raise torch.OutOfMemoryError("no memory")
        return forward(self, input_ids=input_ids, **rest)

    monkeypatch.setattr(type(loaded.model), "forward", small)
    with caplog.at_level(logging.WARNING):
        assert texts(Local(loaded=loaded), requests) == expected
    assert sizes[0] == 10
    assert "out of memory with 10 rows in a batch; going on with 5" in caplog.text

    @wraps(forward)
    def none(self, input_ids=None, **rest):
        raise torch.OutOfMemoryError("no memory")

    monkeypatch.setattr(type(loaded.model), "forward", none)
    assert all(
        isinstance(outcome, Failure) and outcome.reason.startswith("out_of_memory: ")
        for outcome in replies(Local(loaded=loaded), requests[:3])
    )


def test_a_schema_is_enforced_while_decoding(loaded):
    schema = {
        "type": "object",
        "properties": {
            "kind": {"enum": ["good", "bad"]},
            "score": {"type": "integer", "minimum": 1, "maximum": 9},
        },
        "required": ["kind", "score"],
        "additionalProperties": False,
    }
    sampling = Sampling(max_tokens=60, temperature=5.0)
    rows = [ask(i, sampling=sampling, schema=schema) for i in range(20)]
    results = list(complete(rows, Local(loaded=loaded)))
    assert {r.status for r in results} == {"ok"}
    assert {r.value["kind"] for r in results} == {"good", "bad"}
    assert all(1 <= r.value["score"] <= 9 for r in results)
    assert not any(r.answer.lineage["repairs"] for r in results)
    free = list(complete(rows[:4], Local(loaded=loaded, constrain=False)))
    assert not any(r.status == "ok" for r in free)  # a random model does not write JSON


def test_first_logprobs_are_those_of_a_plain_pass(loaded):
    requests, answers = [ask(i) for i in range(13)], ("yes", "no", "1", "5")
    found = Local(loaded=loaded, rows=4).first_logprobs(requests, answers)
    for request, values in zip(requests, found, strict=True):
        logp_V = last_logits(loaded, prompt_ids(loaded, request)).log_softmax(-1)
        for answer in answers:
            token = loaded.chat.tokenizer(answer, add_special_tokens=False)["input_ids"][0]
            assert values[answer] == pytest.approx(float(logp_V[token]), abs=LOG_PROB)
    with pytest.raises(ValueError, match="same token"):
        Local(loaded=loaded).first_logprobs(requests, ("yes", "yellow"))
    long = Request(id="long", messages=[{"role": "user", "content": "word " * 400}])
    (failure,) = Local(loaded=loaded).first_logprobs([long], answers)
    assert failure.reason.startswith("context_too_long: ")


def test_cost_by_the_hour_is_shared_over_the_answers(loaded):
    requests = [ask(i, sampling=Sampling(max_tokens=8)) for i in range(6)]
    began = time.monotonic()
    found = replies(Local(loaded=loaded), requests)
    assert 0 < sum(reply.seconds for reply in found) <= time.monotonic() - began


def test_the_key_knows_weights_template_and_dtype_but_not_the_batch(loaded):
    request = ask(0)
    key = request_key(request, Local(loaded=loaded).identity)
    assert request_key(request, Local(loaded=loaded, rows=2, tokens=99, group=5).identity) == key
    others = (
        replace(loaded, dtype="bfloat16"),
        replace(loaded, files=replace(loaded.files, model_sha="other")),
        replace(loaded, chat=replace(loaded.chat, template=loaded.chat.template + " ")),
    )
    for other in others:
        assert request_key(request, Local(loaded=other).identity) != key


# --- a real server


@pytest.fixture(scope="module")
def served():
    """`transformers serve` on loopback."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "transformers.cli.transformers", "serve"]
    command += ["--host", "127.0.0.1", "--port", str(port), "--device", "cpu"]
    command += ["--dtype", "float32"]
    process = subprocess.Popen(
        command,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(600):
            try:
                if httpx.get(f"{url}/health", timeout=1).status_code == 200:
                    break
            except httpx.TransportError:
                assert process.poll() is None, "the server ended"
            time.sleep(0.2)
        yield f"{url}/v1"
    finally:
        process.terminate()
        process.wait(30)


@pytest.mark.slow
def test_a_real_server_gives_what_the_model_gives_here(served, loaded, folder, tmp_path):
    requests = [ask(i, sampling=Sampling(max_tokens=12)) for i in range(6)]
    here = texts(Local(loaded=loaded), requests)
    backend = Endpoint(url=served, model=str(folder), workers=2, timeout=120)
    for cached in (False, True):
        results = list(complete(requests, backend, cache=tmp_path / "c.db", keep_cut=True))
        assert [r.reason for r in results] == [None] * 6
        assert [r.value for r in results] == here
        assert {r.answer.cached for r in results} == {cached}
        assert all(r.answer.tokens_in > 0 for r in results)


@pytest.mark.slow
def test_a_real_server_without_the_model_stops_the_run(served, tmp_path):
    backend = Endpoint(url=served, model=str(tmp_path / "nothing"), workers=1, attempts=2)
    results = list(complete([ask(i) for i in range(5)], backend))
    assert {r.status for r in results} == {"failed"}
