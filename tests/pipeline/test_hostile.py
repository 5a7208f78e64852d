"""Files that are made to be read wrongly: what each becomes, and that no mutation does worse.

`tests/data/hostile` holds them; its README says what each is.
"""

import contextlib
import random
import resource
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from repository import ROOT

from gristmill.pipeline.ingest import bounds
from gristmill.pipeline.ingest.ingest import Source, ingest
from gristmill.pipeline.models.completion.responses import Trouble, read_response
from gristmill.pipeline.records import json_text, yaml_text
from gristmill.pipeline.records.sealed import seal, unseal
from gristmill.pipeline.records.store import Store

HOSTILE = ROOT / "tests" / "data" / "hostile"
FILES = sorted(p for p in HOSTILE.iterdir() if p.name != "README")
# Rows and the reasons of rows that are set aside; or a part of the sentence that refuses all of it.
BECOMES: dict[str, tuple[int, dict[str, int]] | str] = {
    "blank.jsonl": "there are no rows",
    "bom.jsonl": (1, {}),
    "bomb.parquet": "unpacks to more than",
    "carriage_returns.jsonl": "none of the 1 rows can be read",
    "claims_4g.zip": "unpacks to more than",
    "controls.jsonl": (1, {}),
    "cut.arrow": "is cut short",
    "cut.jsonl.gz": "is cut short or damaged",
    "cut.jsonl.xz": "is cut short or damaged",
    "cut.parquet": "is cut short",
    "cut.zip": "is cut short",
    "deep.json": (1, {"too_deep": 1}),
    "deep.jsonl": (1, {"too_deep": 1}),
    "deep_open.json": "is not valid JSON from element 1 on",
    "empty.jsonl": "there are no rows",
    "flipped.jsonl.bz2": "is cut short or damaged",
    "flipped.parquet": (1, {}),
    "formula.csv": (1, {}),
    "huge_number.jsonl": (3, {}),
    "latin1.jsonl": (1, {"not_utf8": 1}),
    "link.zip": "none of the 1 rows can be read",
    "long_key.jsonl": (2, {}),
    "magic.arrow": "is cut short",
    "magic.parquet": "is cut short",
    "many_keys.jsonl": (2, {}),
    "markup.jsonl": (1, {}),
    "nested.zip": "holds no file of a known format",
    "no_newline.jsonl": "none of the 1 rows can be read",
    "not.jsonl.gz": "is cut short",
    "not.jsonl.zst": "is cut short",
    "nul.csv": (1, {}),
    "nul.jsonl": "none of the 1 rows can be read",
    "prototype.jsonl": (1, {}),
    "quotes.csv": "the quote that opens in the row at line 2 never closes",
    "ragged.csv": (1, {"column_count: 1 of 2": 1, "column_count: 4 of 2": 1}),
    "separators.jsonl": (1, {}),
    "slip.zip": (2, {}),
    "surrogates.jsonl": (1, {"half_a_character": 1}),
    "template.jsonl": (1, {}),
    "text.parquet": "is cut short",
    "trailing.jsonl.gz": "is cut short or damaged",
    "twice.jsonl": (1, {"duplicate_key: prompt": 1}),
    "two.zip": (1, {}),
    "two_members.jsonl.gz": (2, {}),
    "utf16.jsonl": "none of the 2 rows can be read",
    "utf32.jsonl": "none of the 2 rows can be read",
    "wide.csv": "names a column twice",
}


def read(root: Path, path: Path) -> tuple[int, dict[str, int]] | str:
    """What a file becomes; a refusal is one sentence of bounded length, whatever the file holds."""
    root.mkdir(exist_ok=True)
    try:
        made = ingest(Store(root=root), [Source(path=str(path))], max_bad_share=1.0)
    except ValueError as error:
        said = str(error)
        assert len(said.splitlines()) == 1
        assert len(said) < 2_000
        return said
    return made.frame().height, dict(Counter(made.quarantine()["reason"]))


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.name)
def test_a_hostile_file_costs_only_itself(tmp_path, monkeypatch, path):
    monkeypatch.setattr(bounds, "UNPACKED", 64 << 20)  # as it is, a bomb takes a minute
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found, right = read(tmp_path / "store", path), BECOMES[path.name]
    if isinstance(right, str):
        assert isinstance(found, str), found
        assert right in found
    else:
        assert found == right
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 700 << 10, "KiB"
    assert not list(tmp_path.parent.glob("**/outside.jsonl"))


def test_the_table_is_of_the_files_that_there_are():
    assert set(BECOMES) == {p.name for p in FILES}


SEEDS = sorted(
    p
    for p in [*HOSTILE.iterdir(), *(ROOT / "tests" / "data" / "cases").rglob("*.*")]
    if p.is_file() and p.name != "README" and 0 < p.stat().st_size < 4_000
)


def mutated(raw: bytes, seed: int) -> bytes:
    """The bytes with up to eight changes: flipped, cut out, repeated, or of another kind."""
    draw, made = random.Random(seed), bytearray(raw)
    for _ in range(draw.randint(1, 8)):
        at = draw.randrange(len(made) + 1)
        match draw.randrange(5):
            case 0 if at < len(made):
                made[at] ^= 1 << draw.randrange(8)
            case 1:
                del made[at : at + draw.randint(1, 20)]
            case 2:
                made[at:at] = made[at : at + 40] * draw.randint(1, 30)
            case 3:
                made[at:at] = draw.choice(
                    [b"\0", b"\xff", b'"', b"{[", b"\r\n", b"\x1b[2J", b"9" * 50]
                )
            case _:
                made[at : at + 4] = draw.randbytes(4)
    return bytes(made)


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(path=st.sampled_from(SEEDS), seed=st.integers(0, 1 << 32))
def test_a_mutated_file_is_read_or_refused_in_a_sentence(tmp_path, path, seed):
    victim = tmp_path / f"x{''.join(path.suffixes[-2:])}"
    victim.write_bytes(mutated(path.read_bytes(), seed))
    read(tmp_path / "store", victim)


class Asked:
    url, model, served_as, key_variable = "http://host/v1", "m", None, None


ANSWER = b'{"model": "m", "choices": [{"message": {"content": "a"}, "finish_reason": "stop"}]}'


@given(seed=st.integers(0, 1 << 32), status=st.sampled_from([200, 400, 401, 429, 500, 503]))
def test_a_mutated_answer_is_a_reply_or_a_trouble(seed, status):
    found = read_response(status, {"retry-after": str(seed)}, mutated(ANSWER, seed), Asked())
    if isinstance(found, Trouble):
        assert len(found.reason) < 1_000


@given(seed=st.integers(0, 1 << 32))
def test_mutated_settings_seals_and_json_are_values_or_refused(seed):
    sealed = seal({"files": [{"path": "a", "bytes": 1}], "key": "é"}).encode()
    bad = mutated(sealed, seed)
    assert unseal(bad) is None or bad == sealed
    text = bad.decode("utf-8", "replace")
    for parse in (json_text.loads, yaml_text.parse):
        with contextlib.suppress(ValueError):
            parse(text)
