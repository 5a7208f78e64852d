"""What others wrote reaches a terminal as marks, whichever command repeats it, and JSON whole."""

import json
import logging

import pytest
from rows import chat_rows, write_jsonl

from gristmill.flows import logs, progress, terminal
from gristmill.flows.pages.visible import _HIDDEN, in_json

EVIL = "\x1b]0;owned\x07\u202egnp.exe\x9b2J[bold]"
SEEN = "‹ESC›]0;owned‹BEL›‹U+202E›gnp.exe‹U+009B›2J[bold]"


def hidden(text: str) -> set[str]:
    return set(_HIDDEN.findall(text))


@pytest.mark.parametrize(
    "words",
    [
        ("ingest", "--data", f"{EVIL}.jsonl", "--store", "st"),  # a table
        ("ingest", "--data", f"no {EVIL}.jsonl", "--store", "st"),  # a sentence that refuses
        ("ingest", "--data", f"bad {EVIL}.jsonl", "--store", "st"),
        ("methods", EVIL),
        ("score", "--method", EVIL, "--data", f"{EVIL}.jsonl", "--out", "s.parquet"),
        ("score", "--method", "random", "--set", f"{EVIL}=1", "--data", "x", "--out", "s.parquet"),
        ("ls", EVIL),
        ("verify", EVIL),
        ("why", "x", "--in", EVIL),
        ("run", "curate", f"{EVIL}.yaml"),
        ("validate", "hostile.yaml"),
        (EVIL,),
    ],
)
def test_no_command_sends_a_code_on(gristmill, tmp_path, words):
    write_jsonl(tmp_path / f"{EVIL}.jsonl", chat_rows(3))
    (tmp_path / f"bad {EVIL}.jsonl").write_text(f'{{"{EVIL[1:]}": 1}}\n' * 3)
    told = json.dumps({"name": EVIL, EVIL: EVIL, "sources": [{"path": EVIL}]})
    (tmp_path / "hostile.yaml").write_text(told)
    code, out, err = gristmill(*words)
    assert hidden(out + err) == set()
    assert "unexpected" not in err, "a sentence, not a fault of ours"
    assert words[0] == "validate" or "]0;owned" in out + err, "it is told all the same"
    assert code in (0, 1, 2)


def test_json_says_the_same_values_in_characters_that_can_be_seen(gristmill, tmp_path):
    write_jsonl(tmp_path / f"{EVIL}.jsonl", chat_rows(3))
    code, out, err = gristmill("ingest", "--data", f"{EVIL}.jsonl", "--store", "st", "--json")
    assert code == 0, err
    assert hidden(out) == set()
    assert json.loads(out)[0]["name"] == EVIL
    tag = "a\U000e0041\ud800 \u2028é"
    assert json.loads(in_json(json.dumps(tag, ensure_ascii=False))) == tag
    assert "é" in in_json(json.dumps(tag, ensure_ascii=False))


def test_warnings_and_bars_hold_none(capsys, monkeypatch, tmp_path):
    with terminal.shown():
        logs.Terminal().emit(logging.makeLogRecord({"msg": EVIL, "levelno": logging.WARNING}))
    assert capsys.readouterr().err == f"{SEEN}\n"
    from rich.console import Console

    with (tmp_path / "screen").open("w+") as screen:
        with progress._bars(Console(file=screen, force_terminal=True, width=200)) as draw:
            draw(EVIL, 1, 2)
        screen.seek(0)
        drawn = screen.read()
    assert SEEN in drawn
    assert not {"\x07", "\u202e", "\x9b"} & set(drawn)
