"""Small awkward inputs, as public bug reports have them: each has its right outcome, all the way.

Every file of `tests/data/cases` is published, set aside with its reason, or refused in a sentence.
The README of a case says where it comes from and what is right. A record is written here as its
turns: `role: content`, further fields as JSON, `>>` and `<<` before the two answers of a pair.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from repository import ROOT

from gristmill.flows import publishing, steps
from gristmill.flows.config import CurateConfig, read
from gristmill.pipeline.export.verify import verify
from gristmill.pipeline.ingest.ingest import Source, ingest
from gristmill.pipeline.records.dataset import Dataset

DATA = ROOT / "tests" / "data" / "cases"


@dataclass(frozen=True)
class Right:
    """The right outcome of a file or folder.

    Attributes:
        rows: the records, in order.
        aside: reasons of the rows that are set aside, in order, as patterns.
        error: pattern of the sentence that refuses all of it.
        told: patterns of what the run says.
        license: of the records.
        meta: what the records keep beside their content, in order, where that is told.
    """

    rows: tuple[str, ...] = ()
    aside: tuple[str, ...] = ()
    error: str | None = None
    told: tuple[str, ...] = ()
    license: str | None = None
    meta: tuple[dict[str, Any], ...] | None = None


P = ("user: p | assistant: c",)
PQ = (*P, "user: q | assistant: d")
Q = PQ[1:]
RIVER = "user: Name a river. | assistant: The Danube."
FERRY = "user: What is a ferry? | assistant: A boat that carries people and vehicles."
SUMS = tuple(f"user: Add {i} and 1 | assistant: {i + 1}" for i in range(4))
POLITE = "system: You are polite. | user: Say hi >> assistant: Hello! << assistant: Go away"
HI = "user: Say hi >> assistant: Hi! << assistant: No"
CALL = '{"tool_calls": [{"function": {"arguments": %s, "name": "%s"}, %s"type": "function"}]}'
RAIN = (
    "user: Weather in Oslo? | assistant:  "
    + CALL % ('{"city": "Oslo"}', "weather", '"id": "1", ')
    + ' | tool: rain {"tool_call_id": "1"} | assistant: It rains.'
)
WEATHER = "user: Weather in Oslo? | assistant: It rains."
FOUR = 'user: 2+2? | assistant: 4. {"reasoning_content": "Two and two make four."}'
ONLY = 'user: 2+2? | assistant:  {"reasoning_content": "Two and two make four."}'
ADA = "user: Who?\n\nIt was Ada. | assistant: Ada"
ROLLS = (
    "A baker makes twelve trays of rolls each morning and every tray holds twenty rolls how many "
    "rolls does she make in one week of seven days"
)
TRIP = "user: Please book the trip that we talked about yesterday evening for me | assistant:  "
MAIL = CALL % ('{"iban": "DE89370400440532013000", "to": "ann.lee@somewhere.org"}', "send_mail", "")
PRIVATE = (
    "user: Tell me. | assistant: Write to ann.lee@somewhere.org please.",
    'user: Tell me. | assistant: Done. {"reasoning_content": "The address is ann.lee@somewhere.org '
    'so I use it."}',
    f"user: Mail her. | assistant:  {MAIL}",
    "user: Use the key. | assistant:  " + CALL % ('{"key": "AKIAIOSFODNN7ABCDEFG"}', "login", ""),
    "user: Use the key. | assistant: AKIAIOSFODNN7ABCDEFG",
)
ITEMS = (
    f"user: {ROLLS} | assistant: 1680",
    'user: Solve. | assistant: 1680 {"reasoning_content": "The question is: '
    f'{ROLLS}. So 12*20*7."}}',
    "user: Solve. | assistant:  " + CALL % (f'{{"question": "{ROLLS}"}}', "solve", ""),
)
TRIPS = tuple(
    TRIP + CALL % (f'{{"city": "{city}", "days": {days}}}', "book", "")
    for city, days in (("Oslo", 3), ("Lima", 9), ("Perth", 1))
)
TRAIN = (
    "user: A train goes {} km in {} hours at a steady speed. How far does it go in one hour, and "
    "how many km would it cover in ten hours if it kept the same speed the whole way without "
    "stopping? | assistant: It goes {} km in one hour and {}0 km in ten hours."
)
TEST_LEFT = (r"the split train is read, and test \(.*test.*\) is not",)

CASES: dict[str, Right] = {
    "01-one-chat-per-json/chats": Right((FERRY, RIVER)),
    "01-one-chat-per-json/one_line.json": Right((RIVER,)),
    "01-one-chat-per-json/sharegpt.json": Right((RIVER,)),
    "02-test-split-in-folder/ds": Right(SUMS, told=TEST_LEFT),
    "02-test-split-in-folder/ds2": Right(SUMS, told=TEST_LEFT, license="mit"),
    "02-test-split-in-folder/ds3": Right(SUMS, told=TEST_LEFT, license="mit"),
    "02-test-split-in-folder/ds4": Right(SUMS, told=TEST_LEFT, license="mit"),
    **{f"03-pair-system-lost/{n}.jsonl": Right((POLITE,)) for n in "abce"},
    "04-kto-unpaired/kto.jsonl": Right(
        ("user: Is the sea salty? | assistant: Yes, it is.",), aside=("undesirable",)
    ),
    **{
        f"05-images/{name}.jsonl": Right(aside=("not_text",))
        for name in ("image_url_text", "lf", "parts", "parts_filled", "parts_null")
    },
    "06-tool-args/dict.jsonl": Right((RAIN,)),
    "06-tool-args/str.jsonl": Right((RAIN,)),
    "06-tool-args/tools_list_of_json.jsonl": Right((WEATHER,)),
    "06-tool-args/empty_calls.jsonl": Right(
        ("user: Weather? | assistant: It rains.",), aside=("missing_field", "empty_content")
    ),
    "07-nan-inf/a.jsonl": Right(
        tuple(f"user: {p} | assistant: c" for p in ("p", "p2", "p3")),
        meta=({"x": {"y": [None, 1]}}, {}, {"big": 123456789012345678901234567890}),
    ),
    "07-nan-inf/c.jsonl": Right(
        ("user: How many? | assistant: 3.0",), aside=("missing_field: completion",) * 2
    ),
    "09-many-answers/a.jsonl": Right(
        ("user: Who? | assistant: Ada",), meta=({"answer": ["Ada L.", "A. L."]},)
    ),
    "09-many-answers/c.jsonl": Right((ADA,)),
    "09-many-answers/squad.json": Right((ADA,)),
    "09-many-answers/helpsteer.jsonl": Right(("user: Say hi | assistant: Hi!",)),
    "09-many-answers/helpsteer2_pref.jsonl": Right((HI,)),
    "09-many-answers/helpsteer3.jsonl": Right((HI,)),
    "09-many-answers/uf_binarized.jsonl": Right((POLITE.partition(" | ")[2],)),
    "09-many-answers/ultrafeedback.jsonl": Right((HI,)),
    "10-turn-bookkeeping/pair_same.jsonl": Right(aside=("chosen_equals_rejected",)),
    "10-turn-bookkeeping/weight0.jsonl": Right(
        ('user: 2+2? | assistant: 5 {"weight": 0} | user: Really? | assistant: Sorry, 4.',)
    ),
    "10-turn-bookkeeping/wild.jsonl": Right((RIVER, RIVER)),
    "11-parquet/bad_utf8.parquet": Right(("user: ok | assistant: d",), aside=("not_utf8: prompt",)),
    "11-parquet/binary.parquet": Right(PQ),
    "11-parquet/binary_large.parquet": Right(P),
    "11-parquet/binary_system.parquet": Right(("system: Be kind. | user: p | assistant: c",)),
    "11-parquet/binary_text.parquet": Right(("Plain English text.", "More text.")),
    "11-parquet/decimal.parquet": Right(PQ, meta=({"d": "12345678901234567890.12"}, {})),
    "11-parquet/dict.parquet": Right(PQ),
    "11-parquet/dupstruct.parquet": Right(error=r"none of the 1 rows .*\(duplicate_key: s\)"),
    "11-parquet/dur_range.parquet": Right(Q, aside=("out_of_range: d",)),
    "11-parquet/duration.parquet": Right(PQ),
    "11-parquet/float_int.parquet": Right(
        ("user: 2+2? | assistant: 4.0",), aside=("missing_field: answer",)
    ),
    "11-parquet/image.parquet": Right(aside=("not_text",)),
    "11-parquet/map.parquet": Right(PQ, meta=({"m": {"a": 1}}, {"m": {"b": 2}})),
    "11-parquet/nan_answer.parquet": Right(
        ("user: p | assistant: 1.0",), aside=("missing_field: answer",) * 2
    ),
    "11-parquet/nulltype.parquet": Right(PQ, meta=({}, {})),
    "11-parquet/parts_struct.parquet": Right(aside=("not_text",)),
    "11-parquet/strview.parquet": Right(P),
    "11-parquet/ts_out_of_range.parquet": Right(Q, aside=("out_of_range: t",)),
    "11-parquet/tz.parquet": Right(PQ),
    "11-parquet/zero.parquet": Right(error=r"there are no rows in zero\.parquet"),
    "12-reasoning/field.jsonl": Right((FOUR,)),
    "12-reasoning/only_reasoning.jsonl": Right((ONLY, ONLY)),
    "12-reasoning/reasoning.jsonl": Right(
        tuple(FOUR.replace("reasoning_content", name) for name in ("reasoning", "thinking"))
    ),
    "12-reasoning/think_multi.jsonl": Right(
        (
            "user: 2+2? | assistant: <think>Two and two.</think>4. | user: 3+3? | assistant: "
            "<think>Three twice.</think>6.",
        )
    ),
    "14-dedup/cjk.jsonl": Right(
        tuple(
            f"user: 介绍城市 | assistant: {text}"
            for text in (
                "北京是中国的首都，人口超过两千万，是政治和文化中心，每年有很多游客来访。",
                "上海是中国最大的城市之一，位于长江口，是重要的金融和贸易中心，港口繁忙。",
                "北京是中国的首都，人口超过两千万，是政治和文化中心，每年有许多游客来访。",
            )
        )
    ),
    "14-dedup/numbers.jsonl": Right(
        tuple(TRAIN.format(120 * i, i + 1, v, v) for i, v in ((1, 60), (2, 80), (3, 90)))
    ),
    "14-dedup/pii.jsonl": Right(
        (
            "user: Which kernel? | assistant: Use version 4.18.0.193 of the kernel.",
            "user: Which dll? | assistant: Version 10.0.19041.1 works.",
            "user: Order? | assistant: git@github.com:org/repo.git is the remote.",
            "user: isbn | assistant: ISBN 978-3-16-148410-0, 4111 1111 1111 1111",
            "user: npm | assistant: npm install @types/node@18.0.1 and user@host.local",
            "user: dns | assistant: 8.8.8.8 is a public resolver.",
            "user: matrix | assistant: M = [1.2.3.4]",
            "user: section | assistant: See section 3.2.1.4 of the manual.",
        )
    ),
    "14-dedup/short.jsonl": Right(
        (
            "user: Translate cat | assistant: chat",
            "user: Translate dog | assistant: chien",
            "user: Translate cow | assistant: vache",
        )
    ),
    "15-typed-options/context_dict.jsonl": Right(
        (
            'user: Who wrote it?\n\n{"title": ["T"], "sentences": [["Ada wrote it."]]} | assistant: Ada',
        )
    ),
    "15-typed-options/context_list.jsonl": Right(
        ("user: Who wrote it?\n\nDoc 1: Ada wrote it.\n\nDoc 2: It is old. | assistant: Ada",)
    ),
    **{
        f"15-typed-options/{name}": Right(
            ("user: 2+2? | assistant: 4 | user: And 3+3? | assistant: 6",)
        )
        for name in ("history.csv", "history_dicts.jsonl")
    },
    "15-typed-options/input_obj.jsonl": Right(
        (
            'user: Sum the numbers.\n\n{"a": 1, "b": 2} | assistant: 3',
            "user: Sort.\n\n[3, 1, 2] | assistant: 1 2 3",
            "user: Double it.\n\n21 | assistant: 42",
        )
    ),
    "15-typed-options/system_list.jsonl": Right(
        ("system: Be brief.\nBe kind. | user: Hi | assistant: Hello.",)
    ),
    "15-typed-options/tools_pair.jsonl": Right(
        ("user: Weather? >> assistant:  " + CALL % ("{}", "f", "") + " << assistant: No idea.",)
    ),
    "15-typed-options/two_systems.jsonl": Right(
        ("system: You are a pirate.\n\nAnswer briefly. | user: Hi | assistant: Ahoy.",)
    ),
    "16-row-per-turn/oasst.jsonl": Right((RIVER,)),
    "16-row-per-turn/turns.csv": Right((RIVER,)),
    "19-hidden-fields/all.jsonl": Right((*PRIVATE, *ITEMS, *TRIPS)),
    "19-hidden-fields/pii.jsonl": Right(PRIVATE),
    "19-hidden-fields/contam.jsonl": Right(ITEMS),
    "19-hidden-fields/neardup.jsonl": Right(TRIPS),
    "20-skipped-files/mix": Right(
        tuple(
            f"user: {p} | assistant: c"
            for p in ("zip", "jsonlines", "rotated", "good", "notice", "spark")
        ),
        told=(
            r"5 files are not read: 2 that cannot be unpacked \(c.jsonl.zst, e.jsonl.lz4\)",
            r"1 \.html \(h\.html\), 1 \.xlsx \(g\.xlsx\), 1 hidden or linked \(_more\.jsonl\)",
        ),
    ),
    "21-tsv-quotes/a.tsv": Right(
        (
            "user: plain | assistant: zero",
            'user: "Begin the poem | assistant: one',
            "user: name a river | assistant: The Danube.",
            'user: and end it" | assistant: two',
            "user: last | assistant: three",
        )
    ),
    "21-tsv-quotes/inch.tsv": Right(
        (
            'user: How long? | assistant: 5" or 6"',
            'user: "Quoted" word | assistant: yes',
            "user: last | assistant: three",
        )
    ),
    "21-tsv-quotes/open.tsv": Right(
        (
            "user: first | assistant: one",
            'user: "Begin | assistant: two',
            "user: last | assistant: three",
        )
    ),
    "22-preferred-column/pairs.jsonl": Right(
        tuple(f"user: q{i} >> assistant: second << assistant: first" for i in (1, 2, 5, 6)),
        aside=("no_preference",) * 4,
    ),
    "22-preferred-column/pairs.parquet": Right(
        tuple(f"user: q{i} >> assistant: second << assistant: first" for i in (1, 2)),
        aside=("no_preference",),
    ),
}
COLUMNS = {
    "22-preferred-column/pairs.jsonl": {
        **{"prompt": "input", "chosen": "output_1", "rejected": "output_2", "preferred": "label"}
    }
}
COLUMNS["22-preferred-column/pairs.parquet"] = COLUMNS["22-preferred-column/pairs.jsonl"]
# What a case is made of beside its rows: evaluation items and settings.
BESIDE = re.compile(r"19-hidden-fields/(bench/.*|curate\.yaml)|.*/README")


def turns(messages: Any) -> str:
    """Turns as text, whether they are of a record or published."""
    found = []
    for message in messages:
        told = {k: v for k, v in message.items() if k not in ("role", "content") and v is not None}
        told |= json.loads(told.pop("extra", None) or "{}")
        further = f" {json.dumps(told, sort_keys=True, ensure_ascii=False)}" if told else ""
        found.append(f"{message['role']}: {message['content']}{further}")
    return " | ".join(found)


def written(record: Any) -> str:
    """A record as the table above writes it."""
    if "chosen" in record:
        prompt, chosen, rejected = (turns(record[c]) for c in ("prompt", "chosen", "rejected"))
        return f"{prompt} >> {chosen} << {rejected}"
    return record["text"] if "text" in record else turns(record["messages"])


def source(name: str) -> Source:
    return Source(path=str(DATA / name), name=name, columns=COLUMNS.get(name, {}))


@pytest.mark.parametrize("name", CASES)
def test_each_case_is_read_set_aside_or_refused(store, caplog, name):
    right = CASES[name]
    if right.error is not None:
        with pytest.raises(ValueError, match=right.error) as error:
            ingest(store, [source(name)], max_bad_share=1)
        assert "\n" not in str(error.value)
        return
    dataset = ingest(store, [source(name)], max_bad_share=1)
    frame = dataset.frame()
    assert tuple(map(written, frame.to_dicts())) == right.rows
    reasons = dataset.quarantine().sort("line")["reason"].to_list()
    assert len(reasons) == len(right.aside)
    assert all(re.match(p, r) for p, r in zip(right.aside, reasons, strict=True)), reasons
    assert frame["license"].unique().to_list() == ([right.license] if right.rows else [])
    for pattern in right.told:
        assert re.search(pattern, caplog.text)
    if right.meta is not None:
        assert tuple(map(json.loads, frame["meta"])) == right.meta


def test_every_file_has_an_outcome():
    files = {p.relative_to(DATA).as_posix() for p in DATA.rglob("*") if p.is_file()}
    left = {f for f in files if not BESIDE.fullmatch(f)} - set(CASES)
    assert {f for f in left if not any(f.startswith(f"{c}/") for c in CASES)} == set()


def published(tmp_path: Path, config: CurateConfig) -> tuple[list[Any], pl.DataFrame]:
    """A run from raw files to `load_dataset`: what a trainer is given, and the ledger."""
    import datasets

    run = steps.Curation(config=config)
    rows, seen, scores = steps.walk(run)
    folder = publishing.publish(run, rows, seen, scores)
    assert verify(folder) == []
    for path in folder.rglob("*.json"):
        json.loads(path.read_text(), parse_constant=pytest.fail)
    datasets.disable_progress_bars()
    loaded = datasets.load_dataset(str(folder), cache_dir=str(tmp_path / "cache"))["train"]
    return list(loaded), pl.read_parquet(folder / "ledger/*.parquet")


def kind_of(right: Right) -> str:
    text = right.rows[0]
    return "pair" if " >> " in text else "example" if " | " in text else "document"


@pytest.mark.parametrize("kind", ["example", "pair", "document"])
def test_the_cases_are_published_as_they_were_read(tmp_path, kind):
    """Through ingest, clean, select, export, card and verify to what a trainer loads."""
    chosen = {n: right for n, right in CASES.items() if right.rows and kind_of(right) == kind}
    config = CurateConfig(
        name="cases",
        sources=[source(name) for name in chosen],
        scorers=[{"method": "random"}],
        select={"budget": "100%"},
        max_bad_share=1.0,
        store=str(tmp_path / "store"),
        export={"root": str(tmp_path / "curated")},
    )
    loaded, ledger = published(tmp_path, config)
    expected = {row for right in chosen.values() for row in right.rows}
    shipped = list(map(written, loaded))
    assert set(shipped) == expected
    assert len(shipped) == len(expected), "equal rows ship once"
    reasons = ledger.filter(pl.col("verdict") == "dropped")["reason"].unique().to_list()
    assert set(reasons) <= {"exact_duplicate"}
    count = sum(len(right.rows) + len(right.aside) for right in chosen.values())
    assert ledger.height == count, "every row of every file is in the ledger"
    licensed = {n for n, right in chosen.items() if right.license == "mit"}
    assert set(ledger.filter(pl.col("license") == "mit")["source"]) == licensed


def test_hidden_fields_are_cleaned(tmp_path, monkeypatch):
    """Case 19, by its own settings but for the model, whose template shows no tool calls."""
    monkeypatch.chdir(DATA / "19-hidden-fields")
    where = {"store": str(tmp_path / "store"), "export": {"root": str(tmp_path / "curated")}}
    where["models"] = {}
    loaded, ledger = published(tmp_path, read(Path("curate.yaml"), where))
    assert set(map(written, loaded)) == set(TRIPS)
    dropped = ledger.filter(pl.col("verdict") == "dropped").sort("row")
    assert dropped["row"].to_list() == list(range(len(PRIVATE) + len(ITEMS)))


def test_what_is_no_private_data_and_no_copy_stays(tmp_path):
    """Case 14: short texts that differ are no copies, `git@` no e-mail, a section no address."""
    config = CurateConfig(
        name="cases",
        sources=[source(f"14-dedup/{name}.jsonl") for name in ("short", "pii")],
        scorers=[{"method": "random"}],
        select={"budget": "100%"},
        clean={"near": {}, "filters": [{"filter": "pii"}]},
        store=str(tmp_path / "store"),
        export={"root": str(tmp_path / "curated")},
    )
    shipped = set(map(written, published(tmp_path, config)[0]))
    assert set(CASES["14-dedup/short.jsonl"].rows) <= shipped
    asked = {row.partition(" | ")[0] for row in shipped}
    assert {"user: Order?", "user: section", "user: Which kernel?", "user: Which dll?"} <= asked


def test_too_many_rows_that_are_no_text_are_refused_in_a_sentence(store):
    names = ["05-images/parts.jsonl", "11-parquet/parts_struct.parquet"]
    with pytest.raises(ValueError, match=r"rows.*\(100\.0%\) cannot be read.*not_text") as error:
        ingest(store, [source(name) for name in names])
    assert "\n" not in str(error.value)


def test_a_published_case_can_be_read_again(store, tmp_path):
    config = CurateConfig(
        name="cases",
        sources=[source("06-tool-args/dict.jsonl"), source("12-reasoning/field.jsonl")],
        scorers=[{"method": "random"}],
        select={"budget": "100%"},
        store=str(tmp_path / "store"),
        export={"root": str(tmp_path / "curated")},
    )
    loaded, _ = published(tmp_path, config)
    (folder,) = (tmp_path / "curated" / "cases").glob("v1-*")
    again: Dataset = ingest(store, [Source(path=str(folder))])
    assert sorted(map(written, again.frame().to_dicts())) == sorted(map(written, loaded))
