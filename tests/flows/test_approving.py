"""A run that stands as paused in Prefect's UI goes on with a decision, wherever it falls."""

import re
from contextlib import contextmanager
from types import SimpleNamespace

import httpx
import ingested
import prefect.client.orchestration
import pytest
import reviews
from prefect.exceptions import Abort
from prefect.states import Cancelled, Paused, Running
from rows import chat_rows

from gristmill.flows import approving
from gristmill.flows.config import CurateConfig
from gristmill.flows.steps import Curation


@pytest.fixture
def paused(store, tmp_path, monkeypatch):
    """A request, and a run that waits for it: `wait(states, form)` gives the states that it set.

    `states` are what the server says of the run, look by look; one may be an exception, or a
    function of the request that does what people do meanwhile.
    """
    pool = ingested.dataset(store, tmp_path, "pool", chat_rows(14))
    request = reviews.request(store, pool, name="By_name.2")
    asked = {"name": "toy", "sources": [{"path": "a.jsonl"}], "scorers": [{"method": "random"}]}
    run = Curation(config=CurateConfig.model_validate({**asked, "pause": "review"}))
    monkeypatch.setattr(approving, "LOOK", 0.0)

    def wait(*states, form=None):
        left, made = list(states), []

        class Client:
            def set_flow_run_state(self, ident, state):
                made.append(state)

            def read_flow_run(self, ident):
                now = left.pop(0)
                if isinstance(now, Exception):
                    raise now
                return SimpleNamespace(state=now(request) if callable(now) else now)

        @contextmanager
        def client(**_):
            yield Client()

        monkeypatch.setattr(prefect.client.orchestration, "get_client", client)
        kept = SimpleNamespace(save=lambda *_: None, load=lambda *_: form)
        monkeypatch.setattr(approving, "_form", lambda _: kept)
        approving._paused(run, request, "an id")
        assert left == [], "each look was needed"
        return made

    return request, wait


def said(decision, by="ann", reason=""):
    return SimpleNamespace(decision=decision, by=by, reason=reason)


def test_the_form_of_the_ui_and_the_api_are_a_decision(paused):
    request, wait = paused
    (state,) = wait(Paused(), Running(), form=said("approve"))
    assert state.is_paused()
    keys = state.state_details.run_input_keyset
    assert keys, "without them the UI has no form"
    assert all(re.fullmatch("[a-z0-9-]+", key) for key in keys.values()), "as the server takes them"
    assert (request.decision["verdict"], request.decision["by"]) == ("approved", "ann")


def test_a_rejection_in_the_form_without_a_reason_says_that_there_was_none(paused):
    request, wait = paused
    wait(Running(), form=said("reject"))
    assert (request.decision["verdict"], request.decision["reason"]) == (
        "rejected",
        "no reason was given",
    )


def test_page_and_command_line_let_it_go_on_though_the_server_is_away(paused):
    request, wait = paused

    def decided(asked):
        asked.decide("approved", "bob")
        return Paused()

    first, last = wait(Paused(), httpx.ConnectError("gone"), decided)
    assert (first.is_paused(), last.is_running()) == (True, True)
    assert request.decision["by"] == "bob"


def test_a_decision_that_fell_first_stands_whatever_the_form_says(paused):
    request, wait = paused

    def decided(asked):
        asked.decide("rejected", "bob", "row 3")
        return Running()

    wait(decided, form=said("approve"))
    assert (request.decision["verdict"], request.decision["by"]) == ("rejected", "bob")


def test_a_run_that_is_cancelled_while_it_waits_ends(paused):
    request, wait = paused
    with pytest.raises(Abort, match="cancelled while it waited"):
        wait(Paused(), Cancelled())
    assert request.decision is None
