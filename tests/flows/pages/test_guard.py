"""Who may ask a page's server, and what it lets a browser do."""

import http.client

import httpx
import pytest
from starlette.responses import JSONResponse
from starlette.routing import Route

from gristmill.flows.pages.serving import application, listening, served


def _answer(request):
    if request.query_params.get("wrong"):
        raise ValueError("score_x is no column;\n use score.")
    return JSONResponse({"rows": 3})


@pytest.fixture(scope="module")
def guard():
    with served(application("base.css", [Route("/api", _answer)])) as found:
        yield found


@pytest.fixture
def client(guard):
    with httpx.Client(base_url=f"http://127.0.0.1:{guard.port}") as found:
        yield found


def test_the_address_opens_the_door_once_and_the_cookie_keeps_it_open(guard, client):
    assert client.get("/api").status_code == 403
    assert client.get("/?token=wrong").status_code == 403
    opened = client.get(f"/api?token={guard.token}&page=2")
    assert (opened.status_code, opened.headers["location"]) == (303, "/api?page=2")
    cookie = opened.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=Lax" in cookie
    assert client.get("/api").json() == {"rows": 3}


@pytest.mark.parametrize(
    ("asked", "to"), [("//a.example/", "/a.example/"), ("/x%0d%0aset-cookie:a=1", "/x%0D%0Aset")]
)
def test_a_path_is_no_way_out(guard, asked, to):
    wire = http.client.HTTPConnection("127.0.0.1", guard.port)
    wire.request("GET", f"{asked}?token={guard.token}")
    assert wire.getresponse().getheader("location").startswith(to)
    wire.close()


@pytest.mark.parametrize("headers", [{"host": "elsewhere.example"}, {"origin": "http://a.example"}])
def test_other_names_and_pages_are_refused_whatever_they_know(guard, client, headers):
    client.get(f"/?token={guard.token}")
    assert client.post("/api", headers=headers).status_code == 403
    assert client.get("/api", headers=headers).status_code == 403


def test_every_answer_forbids_what_no_page_needs(guard, client):
    refused = client.get("/api")
    client.get(f"/?token={guard.token}")
    for answer in (refused, client.get("/api"), client.get("/assets/base.js")):
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert "http" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "no-referrer"


def test_what_a_browser_was_kept_from_is_noted_within_bounds(guard, client):
    guard.reports.clear()
    for body in ('{"csp-report": {"blocked-uri": "inline"}}', "[" * 50, "x" * 200_000, "[1]"):
        assert client.post("/blocked", content=body).status_code == 204
    assert list(guard.reports) == [{"csp-report": {"blocked-uri": "inline"}}]
    for _ in range(300):
        guard.reports.append({})
    assert len(guard.reports) == 200


def test_a_users_mistake_is_one_sentence(guard, client):
    client.get(f"/?token={guard.token}")
    answer = client.get("/api?wrong=1")
    assert answer.status_code == 400
    assert answer.json() == {"error": "score_x is no column; use score."}


@pytest.mark.parametrize("name", ["..%2fguard.py", "nothing.js", "__init__.py", "%2e%2e"])
def test_assets_are_those_of_the_folder(guard, client, name):
    client.get(f"/?token={guard.token}")
    assert client.get(f"/assets/{name}").status_code == 404


def test_a_port_that_is_taken_is_said_and_the_usual_one_gives_way(guard):
    with pytest.raises(ValueError, match=f"127.0.0.1:{guard.port}"):
        listening(guard.port, 1)
    with listening(None, guard.port) as found:
        assert found.getsockname()[1] != guard.port
