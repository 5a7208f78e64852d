"""What libraries warn of reaches no terminal; what we warn of does, as a sentence."""

import logging
import warnings

import pytest
from repository import ROOT

from gristmill.flows.warned import only_ours


@pytest.fixture
def ours(monkeypatch):
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
    levels = {name: logging.getLogger(name).level for name in ("transformers", "peft")}
    only_ours()
    yield
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)


@pytest.mark.parametrize("kind", [UserWarning, FutureWarning, DeprecationWarning])
def test_warnings_of_libraries_are_for_their_developers(ours, caplog, capsys, kind):
    library = str(ROOT / ".venv/lib/python3.11/site-packages/peft/config.py")
    with caplog.at_level(logging.INFO), warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning(kind("`past_key_values` is deprecated"), kind, library, 7)
        logging.getLogger("transformers.modeling_utils").warning("LOAD REPORT")
    assert not caplog.records
    assert not capsys.readouterr().err


def test_our_own_warnings_are_sentences(ours, caplog):
    here = str(ROOT / "pipeline/selection/rules/mixture.py")
    warnings.showwarning(UserWarning("mixture: a has too few."), UserWarning, here, 7)
    assert [r.getMessage() for r in caplog.records] == ["mixture: a has too few."]
