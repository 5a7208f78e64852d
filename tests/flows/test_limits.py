"""Limits: a run stops at a cap, says so, and ends as one without; what is sure to is not begun."""

from pathlib import Path

import pytest
import yaml
from curation import published_bytes, settings, walk_through

from gristmill.flows import files, limits, planning, stopping
from gristmill.flows.cli import runs
from gristmill.flows.config import CurateConfig, LimitsConfig
from gristmill.pipeline.models.caps import CapReached, RunCaps

QUICK = {"scorers": [{"method": "perplexity"}, {"method": "embedding_similarity"}]}


def config(root: Path, tiny: Path, **more) -> CurateConfig:
    return CurateConfig.model_validate(settings(root, tiny, **{**QUICK, **more}))


def test_a_run_stopped_at_caps_publishes_the_bytes_of_one_that_was_not(tiny, tmp_path):
    truth = published_bytes(walk_through(config(tmp_path / "whole", tiny)))
    plan = planning.planned(config(tmp_path / "capped", tiny), "run.yaml")
    cap = int(plan.total.tokens.value * 0.4)
    run = config(tmp_path / "capped", tiny, limits={"max_tokens": cap})
    stops = []
    while len(stops) < 9:
        try:
            folder = walk_through(run)
            break
        except CapReached as stop:
            stops.append(str(stop))
    assert 1 <= len(stops) <= 3
    assert f"max_tokens = {cap:,}" in stops[0]
    assert "run the same command again" in stops[0]
    assert published_bytes(folder) == truth

    after = planning.planned(run, "run.yaml")
    passes = [line for line in after.lines if line.data in ("pool", "reference")]
    assert passes
    assert all(line.found for line in passes), "nothing is left to do"
    assert after.total.tokens.value == 0
    assert {r["pass"] for r in after.table() if r["data"] == "pool"} == {"found"}


def test_a_run_that_is_sure_to_come_to_its_cap_is_refused_before_it_starts(tiny, tmp_path):
    run = config(tmp_path, tiny, limits={"max_tokens": 10})

    @stopping.stopping
    def flow(config):
        raise AssertionError("it was started")

    with pytest.raises(ValueError, match=r"limits.max_tokens is 10, and by its plan .* at least"):
        flow(run)
    assert not (tmp_path / "store" / "observe").exists()
    enough = run.model_copy(update={"limits": LimitsConfig(max_tokens=10**9)})
    with pytest.raises(AssertionError, match="it was started"):
        flow(enough)


def test_a_flow_at_a_cap_ends_in_a_state_of_its_own_and_raises_it_for_who_called(tiny, tmp_path):
    run = config(tmp_path, tiny)
    seen = []

    @stopping.stopping
    def inner(config):
        seen.append(limits.current(LimitsConfig(max_tokens=1)))
        return "done"

    @stopping.stopping
    def outer(config):
        seen.append(limits.current(config.limits))
        assert inner(config) == "done"
        raise CapReached("stopped at the cap: for a test")

    state = outer(run)
    assert (state.name, state.is_cancelled()) == (stopping.STATES[CapReached], True)
    assert state.message == "stopped at the cap: for a test"
    assert isinstance(state.data, CapReached), "what a direct call raises"
    assert seen[0] is seen[1], "a flow within another counts on its caps"
    assert limits.current(run.limits) is not seen[0]


def test_a_stop_at_a_cap_has_an_exit_code_of_its_own(gristmill, tiny, tmp_path, monkeypatch):
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(settings(tmp_path, tiny, **QUICK)))
    asked = []

    def stopped(config, where):
        asked.append(config.limits)
        raise CapReached("stopped at the cap max_tokens = 5: for a test.")

    monkeypatch.setattr(runs, "run_settings", stopped)
    code, _, err = gristmill("run", "run.yaml", "--max-tokens", "5", "--max-hours", "0.5")
    assert (code, err) == (3, "gristmill: stopped at the cap max_tokens = 5: for a test.\n")
    assert asked == [LimitsConfig(max_tokens=5, max_hours=0.5)]
    code, _, err = gristmill("run", "run.yaml", "--max-money", "5")
    assert code == 2
    assert "hour_price" in err
    assert len(asked) == 1


def test_options_stand_in_the_place_of_the_files_caps(tiny, tmp_path):
    run = config(tmp_path, tiny, limits={"max_hours": 2, "max_tokens": 7})
    found = files.capped(run, {"max_hours": 3.0, "max_tokens": None, "max_money": None}, "f")
    assert found.limits == LimitsConfig(max_hours=3.0, max_tokens=7)
    assert found.sources == run.sources
    assert files.capped(run, {"max_hours": None}, "f") is run


def test_money_is_that_of_hours_and_of_paid_tokens(tiny, tmp_path):
    asked = LimitsConfig(max_money=3, hour_price=2)
    made = limits.made(asked)
    assert (made.money, made.hour_price) == (3, 2)
    assert limits.made(LimitsConfig()) == RunCaps()
    with pytest.raises(ValueError, match="max_money caps nothing here"):
        config(tmp_path, tiny, limits={"max_money": 3})
