"""What is said of wrong settings and of a disk: in sentences, and without what must not be said."""

import errno
import os

import pytest
import yaml

from gristmill.flows import answerers, synthesis_config
from gristmill.flows.synthesis_config import AnswererConfig
from gristmill.pipeline.records import disk

KEY = "sk-canary-9f2c7d4e1b6a"
SETTINGS = {"name": "x", "files": ["docs"], "license": "MIT", "store": "st", "out": "out"}


@pytest.mark.parametrize(
    ("extractor", "said"),
    [
        ({"model": "m", "url": "http://h/v1", "key_variable": KEY}, "give its name"),
        ({"model": "m", "url": f"http://me:{KEY}@h/v1"}, "holds a user, key or query"),
        ({"model": "m", "url": f"http://h/v1?key={KEY}"}, "holds a user, key or query"),
        ({"model": "m", "url": "http://h/v1", "api_key": KEY}, "no such setting"),
        ({"url": "http://h/v1", "key_variable": "OPENAI_API_KEY", "note": KEY}, "no such setting"),
        ({"recorded": "a", "model": KEY}, "exactly one of"),
    ],
)
def test_a_key_in_the_wrong_place_is_refused_and_not_repeated(tmp_path, extractor, said):
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump({**SETTINGS, "extractor": extractor}))
    with pytest.raises(ValueError, match=said) as error:
        synthesis_config.read(path)
    assert KEY not in str(error.value)


def test_a_setting_may_be_called_anything_and_is_named(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump({**SETTINGS, "a[b]": 1, "list[str]": 2}))
    with pytest.raises(ValueError, match=r"a\[b\]: there is no such setting"):
        synthesis_config.read(path)


@pytest.mark.parametrize("line", ["{", "[]", '{"id": 1}', '{"id": [], "text": "a"}', "[" * 9_999])
def test_recorded_answers_that_are_none_are_named_by_their_line(tmp_path, line):
    path = tmp_path / "answers.jsonl"
    path.write_text('{"id": "a", "text": "b"}\n\n' + line + "\n")
    who = AnswererConfig(recorded=str(path))
    with pytest.raises(ValueError, match=r"extractor\.recorded: line 3 of .*answers\.jsonl is not"):
        answerers.answerer("extractor", who, None, None)


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (errno.EROFS, "the disk is read-only, so st/x cannot be written: name another folder."),
        (errno.EACCES, "you may not open st/x: change its permissions, or name another."),
        (
            errno.EIO,
            "the disk fails at st/x (input/output error): check the disk, then run the same "
            "command again; it goes on where it stopped.",
        ),
        (
            errno.EISDIR,
            "st/x is a folder, where a file belongs: move it away, then run the same command "
            "again; it goes on where it stopped.",
        ),
        (errno.ENOSYS, "[Errno 38] Function not implemented: 'st/x'"),
    ],
)
def test_a_disk_that_lets_nothing_be_written_is_told_in_a_sentence(number, said):
    assert disk.trouble(OSError(number, os.strerror(number), "st/x")) == said
