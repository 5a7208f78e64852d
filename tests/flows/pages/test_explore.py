"""The routes of `gristmill explore`: what they answer, and what they refuse in a sentence."""

from pathlib import Path

import published
import pytest
from starlette.datastructures import QueryParams
from starlette.testclient import TestClient

from gristmill.flows import looking
from gristmill.flows.looking import of_run
from gristmill.flows.pages.explore import Page
from gristmill.flows.pages.questions import question
from gristmill.flows.pages.view import PIECE
from gristmill.pipeline.records.store import Store
from gristmill.pipeline.report.examples import EXPLORER

TEMPLATES = Path(looking.__file__).parent / "templates"
LONG = "x" * (2 * PIECE + 5)


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    root = tmp_path_factory.mktemp("routes")
    store = Store(root=root / "store")
    store.root.mkdir()
    rows = published.chats(40)
    rows[3]["messages"][1]["content"] = LONG
    rows[4]["messages"][1]["content"] = "\x1b[31m**red**"
    rows[5]["source"] = "odd \u202e<b>"
    report = f'<a href="{EXPLORER}?id=1">1</a> <a href="http://elsewhere.example/">2</a>'
    published.publish(root / "out", store, rows=rows, keep=5)
    published.publish(root / "out", store, rows=rows, report=lambda facts: report.encode())
    page = Page(root / "out", store.root)
    assert page.view.explorer.texts.wait(20)
    yield page, TestClient(page.app(), raise_server_exceptions=True)
    page.close()


@pytest.fixture
def client(opened):
    return opened[1]


def at_of(client, words):
    return client.get("/api/rows", params={"q": words}).json()["rows"][0]["at"]


def test_a_question_is_read_from_an_address():
    asked = question(QueryParams("q=a+b&verdict=kept&verdict=dropped&in.score=0.1,2&sort=score&down=1"
                                 "&around=0,0,1,0,1,1"))  # fmt: skip
    assert asked.words == "a b"
    assert asked.values == (("verdict", ("kept", "dropped")),)
    assert asked.ranges == (("score", 0.1, 2.0),)
    assert (asked.sort, asked.descending) == ("score", True)
    assert asked.around == (0, 0, 1, 0, 1, 1)


@pytest.mark.parametrize(
    "path",
    [
        "/api/rows?in.score=1",
        "/api/rows?in.score=a,b",
        "/api/rows?in.nothing=1,2",
        "/api/rows?sort=nothing",
        "/api/rows?offset=x",
        "/api/rows?around=1,2,3",
        "/api/row?at=99999",
        "/api/row?at=-1",
        "/api/row?at=x",
        "/api/more?at=0&turn=0&name=nothing",
        "/api/more?at=0&turn=77",
        "/api/map/colours?by=nothing",
        "/api/tokens?at=4444",
    ],
)
def test_what_is_not_there_is_refused_in_one_sentence(client, path):
    answer = client.get(path)
    assert answer.status_code == 400
    assert answer.json()["error"].endswith(".")
    assert "\n" not in answer.json()["error"]


def test_a_long_turn_comes_in_pieces_that_are_the_whole(client):
    at = at_of(client, LONG[:50])
    (_, answer, *_) = client.get("/api/row", params={"at": at}).json()["turns"]
    (text,) = answer["texts"]
    said, rest, at_character = text["nodes"][0][2][0], text["rest"], text["next"]
    while rest:
        more = client.get("/api/more", params={"at": at, "turn": 1, "offset": at_character}).json()
        said += more["nodes"][0][2][0]
        rest, at_character = more["rest"], more["next"]
    assert said == LONG


def test_rows_are_shown_with_marks_and_as_markdown_or_as_written(client):
    at = at_of(client, "**red**")
    row = next(r for r in client.get("/api/rows?limit=90").json()["rows"] if r["at"] == at)
    assert "‹ESC›[31m" in row["text"]
    read, written = (
        client.get("/api/row", params={"at": at, "as": how}).json()["turns"][1]["texts"][0]["nodes"]
        for how in ("", "written")
    )
    assert ["strong", "", ["red"]] in read[0][2]
    assert written[0][2][-1] == "[31m**red**"
    sources = client.get("/api/counts").json()["values"]["source"]
    assert "odd ‹U+202E›<b>" in [s["shown"] for s in sources]


def test_ids_are_a_line_each_and_name_their_use(client):
    kept = client.post("/api/ids", json={"as": "drop", "query": "verdict=kept"})
    assert kept.headers["content-disposition"] == 'attachment; filename="drop-toy.txt"'
    assert len(kept.text.splitlines()) == 30
    picked = client.post("/api/ids", json={"as": "takedown", "picked": [0, 1]})
    assert len(picked.text.splitlines()) == 2


@pytest.mark.parametrize(
    "sent",
    [
        {"as": "shred"},
        {"as": "keep", "picked": ["1"]},
        {"as": "keep", "picked": [True]},
        {"as": "keep", "query": "q=nowhere"},
        [],
    ],
)
def test_a_wrong_export_is_refused(client, sent):
    assert client.post("/api/ids", json=sent).status_code == 400


def test_the_report_links_to_rows_of_this_page_and_acts_in_nothing(client):
    answer = client.get("/report.html")
    assert '<a href="/?id=1">' in answer.text
    assert "script-src" not in answer.headers["content-security-policy"]
    assert "sandbox" in answer.headers["content-security-policy"]


def test_another_version_is_put_beside_and_only_one_of_this_dataset(opened):
    page, client = opened
    (older,) = client.get("/api/about").json()["versions"]
    assert client.post("/api/open", json={"against": "../../etc"}).status_code == 400
    assert client.post("/api/open", json={"against": older}).status_code == 200
    assert client.get("/api/about").json()["before"] == f"toy {older}"
    assert client.post("/api/open", json={"against": None}).status_code == 200
    assert client.get("/api/about").json()["before"] is None
    assert page.view.explorer.texts.wait(20)


def test_a_tab_whose_view_was_closed_by_another_is_told_and_gets_no_other_rows(opened):
    """Row numbers are of one opening: after another, they would name other rows."""
    page, client = opened
    about = client.get("/api/about").json()
    view, (older,) = about["view"], about["versions"]
    picked = {"as": "keep", "picked": [0]}
    assert client.post(f"/api/ids?view={view}", json=picked).status_code == 200
    assert client.post(f"/api/open?view={view}", json={"against": older}).status_code == 200
    for answer in (
        client.get("/api/row", params={"at": 0, "view": view}),
        client.get("/api/rows", params={"view": view}),
        client.post(f"/api/ids?view={view}", json=picked),
        client.post(f"/api/open?view={view}", json={"against": None}),
    ):
        assert answer.status_code == 409
        assert "Another tab has opened toy" in answer.json()["error"]
    now = client.get("/api/about").json()["view"]
    assert client.post(f"/api/open?view={now}", json={"against": None}).status_code == 200
    assert page.view.explorer.texts.wait(20)


def test_a_runs_file_names_dataset_and_store(tmp_path):
    file = tmp_path / "curate.yaml"
    home = tmp_path / "out" / "toy"
    file.write_text(
        f"name: toy\nsources: [{{path: a.jsonl}}]\nscorers: [{{method: random}}]\n"
        f"store: mine\nexport: {{root: {tmp_path / 'out'}}}\n"
    )
    with pytest.raises(ValueError, match="has published nothing"):
        of_run(file, "data/work")
    home.mkdir(parents=True)
    assert of_run(file, "data/work") == (home, "mine")
    assert of_run(file, "other") == (home, "other")
    assert of_run(tmp_path, "other") == (tmp_path, "other")


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("clean", "published nothing at data/curated/"),
        ("refine", "published nothing at data/curated/"),
        ("prefer", "published nothing at data/preferences/"),
        ("synthesis", "published nothing at data/synthetic/"),
        ("finetune", "is a finetune run, which publishes no ledger"),
        ("compare", "is a compare run, which publishes no ledger"),
    ],
)
def test_a_file_of_any_run_is_known_by_what_it_publishes(kind, says, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=says):
        of_run(TEMPLATES / f"{kind}.yaml", "data/work")
