"""A marked key through a whole run: it is sent to the endpoint, and found in nothing that is left.

The endpoint repeats the key in its answers and in its errors. Searched are the store, the published
folders, the log, what the terminal shows, and the database of the server, where runs, logs and
artifacts are.
"""

import json
import logging
from pathlib import Path

import pytest
from fake_openai import FakeOpenAI
from synthesis_run import written

from gristmill.flows import logs, synthesis_config
from gristmill.pipeline.records.schema import digest
from gristmill.pipeline.records.store import walk

KEY = "sk-canary-9f2c7d4e1b6a"
NAME = "GRISTMILL_CANARY_KEY"


def answer(body):
    """A pair of words that no document has, and the key; now and then the key alone."""
    letters = digest(body).translate(str.maketrans("0123456789", "ghijklmnop"))
    words = " ".join(letters[i : i + 5] for i in range(0, 30, 5))
    if letters[0] in "abc":
        return f"I was given {KEY} and say no more."
    pair = {"question": f"{words}?", "answer": f"{words[::-1]}, {KEY}", "evidence": words}
    return json.dumps({"pairs": [pair]})


@pytest.mark.slow
def test_a_marked_key_is_sent_and_found_nowhere(tiny, tmp_path, monkeypatch, capfd):
    from prefect.settings import get_current_settings
    from prefect.testing.utilities import prefect_test_harness

    monkeypatch.setenv(NAME, KEY)
    told = logging.FileHandler(tmp_path / "log.txt")
    told.setFormatter(logs.Plain("%(message)s"))
    logging.getLogger().addHandler(told)
    curation = {
        "scorers": [{"method": "length"}],
        "select": {"budget": "2"},
        "models": {"target": str(tiny)},
        "export": {"root": str(tmp_path / "curated")},
    }
    try:
        with FakeOpenAI(answer=answer) as fake, prefect_test_harness(server_startup_timeout=300):
            from gristmill.flows.synthesize import synthesize

            who = {"model": "m", "url": fake.url, "key_variable": NAME, "workers": 2}
            how = {"grounded": False, "refine": False}
            path = written(tmp_path, tiny, extractor=who, extraction=how, curate=curation)
            folder = Path(synthesize(synthesis_config.read(path)))
            url = get_current_settings().server.database.connection_url.get_secret_value()
            database = Path(url.partition("///")[2])
            left = [p for p in database.parent.iterdir() if p.name.startswith(database.name)]
            rows = {p: p.read_bytes() for p in left}
    finally:
        logging.getLogger().removeHandler(told)
        told.close()
    assert {h["authorization"] for h in fake.headers} == {f"Bearer {KEY}"}
    found = {**rows, **{p: p.read_bytes() for p in walk(tmp_path)}}
    assert any(b"synthesize" in raw for raw in rows.values()), "the server kept the run"
    assert any(b"***" in raw for raw in found.values()), "answers were kept, without the key"
    assert [p for p, raw in found.items() if KEY.encode() in raw] == []
    shown = capfd.readouterr()
    assert KEY not in shown.out + shown.err
    assert (folder / "manifest.json").is_file()
