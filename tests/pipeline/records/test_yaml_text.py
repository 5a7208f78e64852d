"""YAML of a stranger's: deep, endless or huge, it is refused in one sentence."""

import os

import pytest

from gristmill.flows import config, synthesis_config
from gristmill.pipeline.clean.benchmarks import benchmarks
from gristmill.pipeline.records import yaml_text

LAUGHS = "a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 12)
)
HOSTILE = {
    "deep lists": ("name: " + "[" * 5_000, "nests more than 100 levels deep"),
    "deep mappings": ("{a: " * 5_000, "nests more than 100 levels deep"),
    "deep blocks": ("- " * 5_000 + "x", "nests more than 100 levels deep"),
    "keys that are deep": ("? " * 5_000, "nests more than 100 levels deep"),
    "laughs": (LAUGHS, "aliases repeat too much"),
    "endless": ("&a [*a]", "aliases repeat too much"),
    "huge": ("# \n" * 400_000, "characters, and settings at most"),
    "no date": ("a: 2026-99-99", "month must be in 1..12"),
    "broken": ("a: [", "while parsing"),
}


@pytest.mark.parametrize("case", HOSTILE)
@pytest.mark.parametrize("read", [config.read, synthesis_config.read, benchmarks])
def test_hostile_settings_are_refused_in_one_sentence(tmp_path, case, read):
    text, words = HOSTILE[case]
    path = tmp_path / "settings.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=words) as error:
        read(path)
    assert "settings.yaml is no YAML: " in str(error.value)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 600


def test_files_that_are_no_settings(tmp_path):
    path = tmp_path / "settings.yaml"
    path.write_bytes(b"name: caf\xe9")
    with pytest.raises(ValueError, match=r"settings\.yaml is not UTF-8"):
        config.read(path)
    path.write_text("- a\n- b\n")
    with pytest.raises(ValueError, match=r"settings\.yaml must map the names"):
        benchmarks(path)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(
        ValueError, match=r"settings\.yaml is a pipe or a device: expected a YAML file"
    ):
        config.read(path)


def test_what_settings_look_like():
    text = "a: &base {x: 1, y: [true, null]}\nb: *base\nc: 2026-11-22\nd: 'é'\n"
    value = yaml_text.parse(text)
    assert value["a"] == value["b"] == {"x": 1, "y": [True, None]}
    assert value["d"] == "é"
