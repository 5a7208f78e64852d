"""People at the review page, in Chromium: by keyboard, offline, in two tabs, killed, attacked."""

import json
import random
import threading
import time

import browser
import pytest
from curation import walk_through
from review_server import Server
from rows import chat_rows, pair_rows, write_jsonl

from gristmill.flows import reviewing
from gristmill.flows.config import CurateConfig
from gristmill.flows.pages import serving
from gristmill.pipeline.records.dataset import stored
from gristmill.pipeline.review import approval, folder, shown

pytestmark = pytest.mark.browser
READ = 0.2  # seconds that nobody reads faster than


@pytest.fixture(scope="module")
def chrome(tmp_path_factory):
    with browser.chromium(tmp_path_factory.mktemp("profile")) as found:
        yield found


def opened(root, rows, **how):
    data = write_jsonl(root / "rows.jsonl", rows)
    return reviewing.reviewing(reviewing.Asked(data=str(data), store=str(root / "store"), **how))


def begin(page, name):
    page.wait("!document.querySelector('#start').hidden")
    page.write("#name", name)
    page.press("Enter")
    page.wait("!document.querySelector('#work').hidden")


def answers(page):
    return page.js("[...document.querySelectorAll('#answers .said')].map((e) => e.innerText)")


def press(page, key):
    """Say something of the row on the screen, as fast as somebody may."""
    time.sleep(READ)
    page.press(key)


def saved(page, count=None):
    page.wait("document.querySelector('#saved').textContent === 'all saved'")
    if count is not None:
        page.wait(f"document.querySelector('#count').textContent.startsWith('{count} by you')")


def better(page, rows):
    """The key that names the answer which the data calls chosen."""
    chosen = {r["chosen"][0]["content"] for r in rows}
    return "1" if answers(page)[0] in chosen else "2"


def test_ten_pairs_by_keyboard_reload_undo_a_second_annotator_finish_published(chrome, tmp_path):
    """ann says what the data says but for two; bob differs from ann on two of the ten.

    Counts: 6 times both chosen, 2 both rejected, 1 chosen-rejected, 1 rejected-chosen; p_o = 0.8,
    ann chosen 7, bob chosen 7: p_e = 0.49 + 0.09 = 0.58; kappa = 0.22 / 0.42 = 11 / 21.
    """
    rows = pair_rows(10)
    found = opened(tmp_path, rows, double=1.0)
    place = {r["prompt"][0]["content"]: n for n, r in enumerate(rows)}
    says = {  # by row: does the annotator agree with the data?
        "ann": [n not in (0, 1, 2) for n in range(10)],
        "bob": [n not in (0, 1, 3) for n in range(10)],
    }

    def judge(page, name):
        n = place[page.text("#context .said")]
        right = better(page, rows)
        press(page, right if says[name][n] else {"1": "2", "2": "1"}[right])
        return n

    with serving.served(found.app) as guard:
        with chrome.page(guard.address) as page:
            begin(page, "ann")
            done = [judge(page, "ann") for _ in range(4)]
            saved(page, 4)
            page.reload()
            page.wait("!document.querySelector('#work').hidden")
            saved(page, 4)
            assert place[page.text("#context .said")] not in done, "it goes on where it was"
            press(page, "u")  # after the reload: the last one of all
            page.wait("document.querySelector('#count').textContent.startsWith('3 by you')")
            assert place[page.text("#context .said")] == done[-1]
            press(page, "t")  # a tie by mistake, taken back at once
            press(page, "u")
            assert place[page.text("#context .said")] == done[-1]
            for _ in range(7):
                judge(page, "ann")
            page.wait("!document.querySelector('#end').hidden")
            assert "There is no row left for you" in page.text("#end")
            assert page.alerts == []
            assert page.said == []
        with chrome.page(f"{guard.address}&as=bob") as page:
            page.wait("!document.querySelector('#work').hidden")
            for _ in range(10):
                judge(page, "bob")
            page.wait("!document.querySelector('#end').hidden")
            text = page.text("#end")
            assert "0.524" in text, text  # 11 / 21
            assert "ann 10, bob 10" in text
        assert list(guard.reports) == []
    review = found.home
    run = CurateConfig.model_validate(
        {
            "name": "toy",
            "sources": [{"path": str(tmp_path / "rows.jsonl")}],
            "scorers": [{"method": "random"}],
            "select": {"budget": "100%"},
            "review": str(review),
            "store": str(tmp_path / "store"),
            "export": {"root": str(tmp_path / "curated"), "trainer_rows": False},
        }
    )
    made = walk_through(run)
    told = json.loads((made / "manifest.json").read_text())["selection"]["review"]
    assert told["rows"] == {"chosen": 6, "disagreed": 2, "rejected": 2}
    assert told["pairs"][0]["kappa"]["value"] == pytest.approx(11 / 21, abs=1e-12)


def test_rows_are_kept_dropped_and_corrected_by_keyboard(chrome, tmp_path):
    rows = chat_rows(4)
    for row in rows:
        row["messages"][-1]["content"] += " A **bold** word."
    found = opened(tmp_path, rows, double=0.0)
    with serving.served(found.app) as guard, chrome.page(f"{guard.address}&as=ann") as page:
        page.wait("!document.querySelector('#work').hidden")
        page.press("m")
        assert "**bold**" in page.text("#answers"), "as it is written"
        page.press("m")
        assert "**bold**" not in page.text("#answers")
        press(page, "k")
        saved(page, 1)
        press(page, "f")
        page.wait("!document.querySelector('#editor').hidden")
        press(page, "Escape")
        assert page.js("document.querySelector('#editor').hidden")
        press(page, "f")
        page.js("document.querySelector('#editor button.main').click()")
        page.wait("document.querySelector('#told').textContent.includes('as it was')")
        page.write("#text", "It is **four**: 2 + 2 = 4 <b>indeed</b>.")
        page.click("#editor button.main")
        saved(page, 2)
        press(page, "c")
        page.js("document.activeElement.id === 'comment' || (() => {throw 1})()")
        page.write("#comment", "d is for drop, but this is a comment")
        page.press("Enter")
        press(page, "d")
        saved(page, 3)
    lines = folder.said(found.home).to_dicts()
    assert [line["judgement"] for line in lines] == ["keep", "fix", "drop"]
    assert lines[1]["answer"] == "It is **four**: 2 + 2 = 4 <b>indeed</b>."
    assert lines[2]["comment"] == "d is for drop, but this is a comment"


def test_a_phone_that_is_offline_keeps_what_was_said_and_sends_it(chrome, tmp_path):
    found = opened(tmp_path, pair_rows(12), double=0.0)
    offline = {"latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}
    with serving.served(found.app) as guard:
        with chrome.page(f"{guard.address}&as=ann", 390, 844, mobile=True) as page:
            page.wait("!document.querySelector('#work').hidden")
            assert page.js("document.documentElement.scrollWidth") <= 390
            press(page, "1")
            saved(page, 1)
            page.call("Network.emulateNetworkConditions", offline=True, **offline)
            for key in ("2", "t", "b"):
                press(page, key)
            page.wait("document.querySelector('#saved').textContent === '3 not saved yet'")
            assert "does not answer" in page.text("#told")
            assert folder.said(found.home).height == 1
            page.press("u")  # the last of them, which was never sent
            page.wait("document.querySelector('#saved').textContent === '2 not saved yet'")
        with chrome.page(f"{guard.address}&as=ann", 390, 844, mobile=True) as page:
            saved(page)  # closed midway, opened again: what was kept was sent
            end = time.monotonic() + 20  # or the first page sent it, once the tests' line was cut
            while folder.said(found.home).height < 3 and time.monotonic() < end:
                time.sleep(0.05)
            page.reload()
            saved(page, 3)
    lines = folder.said(found.home).to_dicts()
    assert [line["number"] for line in lines] == [0, 1, 2]
    assert lines[2]["judgement"] == "tie"


def test_what_was_begun_outlives_the_page_and_what_was_refused_is_not_lost(chrome, tmp_path):
    found = opened(tmp_path, chat_rows(3), double=0.0)
    with serving.served(found.app) as guard:
        with chrome.page(f"{guard.address}&as=ann") as page:
            page.wait("!document.querySelector('#work').hidden")
            press(page, "f")
            page.wait("!document.querySelector('#editor').hidden")
            page.write("#text", "A correction, half writ")
            page.write("#comment", "a comment")
        with chrome.page(f"{guard.address}&as=ann") as page:  # closed midway, opened again
            page.wait("!document.querySelector('#work').hidden")
            assert "A correction that you began is kept" in page.text("#told")
            assert page.js("document.querySelector('#comment').value") == "a comment"
            press(page, "f")
            assert page.js("document.querySelector('#text').value") == "A correction, half writ"
            page.click("#editor button.main")
            saved(page, 1)
            assert page.js("document.querySelector('#comment').value") == ""
            press(page, "u")
            press(page, "f")
            assert page.js("document.querySelector('#text').value") == "A correction, half writ"
            page.press("Escape")
            saved(page)
            page.js(
                "(() => { const asked = window.fetch; window.fetch = async (path, ...more) => ("
                "path.startsWith('/judgements') && !window.back ? new Response("
                "JSON.stringify({ error: 'another review' }), { status: 409, headers: "
                "{ 'content-type': 'application/json' } }) : asked(path, ...more)); })()"
            )
            press(page, "k")
            page.wait("document.querySelector('#saved').textContent === '1 not saved yet'")
            page.js("window.back = true; window.dispatchEvent(new Event('online'))")
            saved(page, 1)
    assert folder.said(found.home)["judgement"].to_list() == ["fix", None, "keep"]


def test_two_tabs_of_one_annotator_never_lose_a_click(chrome, tmp_path):
    found = opened(tmp_path, pair_rows(5), double=0.0)
    with serving.served(found.app) as guard:
        address = f"{guard.address}&as=ann"
        with chrome.page(address) as one, chrome.page(address) as other:
            for page in (one, other):
                page.wait("!document.querySelector('#work').hidden")
            before = other.text("#context")
            assert one.text("#context") == before
            press(one, "1")
            saved(one, 1)
            other.wait(f"document.querySelector('#context').innerText !== {json.dumps(before)}")
            assert "judged in another tab" in other.text("#told")
            while not other.js("!document.querySelector('#end').hidden"):
                press(other, "t")
    lines = folder.said(found.home).to_dicts()
    assert len({line["item"] for line in lines}) == len(lines) == 5


def test_a_page_outlives_a_server_that_is_killed_at_twenty_moments(chrome, tmp_path):
    """The server is killed while somebody clicks: what the page calls saved is on the disk."""
    data = write_jsonl(tmp_path / "rows.jsonl", pair_rows(300))
    server = Server(data, tmp_path / "store", double=0.0).start()
    draw = random.Random(7)
    row = "document.querySelector('#work').hidden || document.querySelector('#context .said')"
    pressed = {}
    try:
        with chrome.page(f"{server.address}&as=ann") as page:
            page.wait("!document.querySelector('#work').hidden")
            for _ in range(20):
                for _ in range(draw.randint(1, 3)):
                    time.sleep(READ)
                    prompt = page.js(f"({row}).innerText")
                    if prompt:  # else it waits for the server
                        pressed[prompt] = draw.choice("12tb")
                        page.press(pressed[prompt])
                time.sleep(draw.uniform(0, 0.02))
                server.kill()
                shown_saved = int(page.text("#count").split(" by you")[0].replace(",", ""))
                assert shown_saved <= len(server.lines())
                server.start()
                page.js("window.dispatchEvent(new Event('online'))")
                page.wait("!document.querySelector('#work').hidden")
            saved(page)
            count = int(page.text("#count").split(" by you")[0].replace(",", ""))
    finally:
        server.kill()
    lines = server.lines()
    assert len(lines) == count == len({line["item"] for line in lines})
    (dataset,) = stored(tmp_path / "store")
    asked = {r["id"]: r["prompt"][0]["content"] for r in dataset.frame().to_dicts()}
    by_key = {"t": "tie", "b": "both_bad"}
    for line in lines:
        first = line["shown_first"]
        sides = {"1": first, "2": shown.other(first)}
        assert line["judgement"] == {**by_key, **sides}[pressed.pop(asked[line["item"]])]
    assert pressed == {}, "all that was pressed is there"
    assert 20 <= count <= 60


HOSTILE = [
    "<script>window.__hit = 1</script><img src=x onerror='window.__hit = 2'>",
    "<svg onload='window.__hit = 3'><use href='http://evil.example/x.svg#a'/></svg>",
    "[click](javascript:window.__hit=4) ![pixel](http://evil.example/p.png) <http://evil.example>",
    "\u202etxt.exe\u2066 \u200b\u2069 reversed \u200f",
    "\x1b[31mred\x1b[0m \x07 bell \x00 nul",
    "<iframe src='http://evil.example'></iframe><style>body{display:none}</style>",
    "$\\href{javascript:window.__hit=5}{x}$ and $$\\frac{1}{2}$$ ```<b>```",
    "x" * 1_000_000,
    "</textarea></script><form action='http://evil.example'><button>go</button></form>",
    "<a href='http://evil.example' autofocus onfocus='window.__hit=6'>" + "> " * 400 + "deep",
]


def test_ten_hostile_rows_run_nothing_ask_for_nothing_and_can_be_read(chrome, tmp_path):
    rows = [
        {"messages": [{"role": "user", "content": text[:200]},
                      {"role": "assistant", "content": f"row {n}: {text}"}]}
        for n, text in enumerate(HOSTILE)
    ]  # fmt: skip
    found = opened(tmp_path, rows, double=0.0)
    seen = set()
    with serving.served(found.app) as guard, chrome.page(f"{guard.address}&as=ann") as page:
        for _ in HOSTILE:
            page.wait("!document.querySelector('#work').hidden")
            text = page.text("#answers")
            seen.add(int(text.split("row ")[1].split(":")[0]))
            assert page.js("window.__hit === undefined")
            assert page.js("document.documentElement.scrollWidth <= innerWidth")
            if "row 7:" in text:
                assert len(text) < 30_000, "a part of a megabyte at first"
                page.click("#answers .said > button")
                assert len(page.text("#answers")) > 1_000_000
            for word, row in (("U+202E", 3), ("ESC", 4), ("<script>", 0), ("onload", 1)):
                assert f"row {row}:" not in text or word in text
            press(page, "f")  # and in the editor
            time.sleep(0.05)
            press(page, "Escape")
            press(page, "k")
            saved(page)
        page.wait("!document.querySelector('#end').hidden")
        assert page.js("window.__hit === undefined")
        asked = [r for r in page.requests if not r.startswith(f"http://127.0.0.1:{guard.port}/")]
        assert asked == []
        assert page.alerts == []
        assert list(guard.reports) == [], "not even tried"
    assert seen == set(range(10))


def test_a_screen_reader_is_told_what_is_there(chrome, tmp_path):
    found = opened(tmp_path, pair_rows(3), double=0.0)
    with serving.served(found.app) as guard, chrome.page(f"{guard.address}&as=ann") as page:
        page.wait("!document.querySelector('#work').hidden")
        page.call("Accessibility.enable")
        told = page.call("Accessibility.getFullAXTree")["nodes"]
        named = {
            (n["role"]["value"], n.get("name", {}).get("value", "").strip())
            for n in told
            if not n.get("ignored")
        }
        for role, name in (
            ("region", "Answer 1"),
            ("region", "Answer 2"),
            ("button", "1 is better 1"),
            ("button", "Both bad b"),
            ("navigation", "Judgement"),
            ("progressbar", "judged of all rows"),
            ("heading", "Pair 1"),
        ):
            assert (role, name) in named, (role, name, sorted(named))
        assert page.js("document.activeElement.id") == "item"


def test_a_run_that_waits_is_approved_on_the_page(chrome, tmp_path):
    from gristmill.pipeline.review.approval import WaitsForApproval

    write_jsonl(tmp_path / "rows.jsonl", pair_rows(10))
    run = CurateConfig.model_validate(
        {
            "name": "toy",
            "sources": [{"path": str(tmp_path / "rows.jsonl")}],
            "scorers": [{"method": "random"}],
            "select": {"budget": "80%"},
            "pause": "review",
            "store": str(tmp_path / "store"),
            "export": {"root": str(tmp_path / "curated"), "trainer_rows": False},
        }
    )
    with pytest.raises(WaitsForApproval):
        walk_through(run)
    (request,) = approval.waiting(tmp_path / "store")
    found = reviewing.approving(request.path)
    with serving.served(found.app) as guard, chrome.page(guard.address, 390, 844, True) as page:
        page.wait("document.querySelectorAll('.row').length === 8")
        assert "8 of 10 rows would be published" in page.text("#what")
        assert page.js("document.documentElement.scrollWidth") <= 390
        page.write("#by", "ann")
        page.click("#reject")
        page.wait("document.querySelector('#told').textContent.includes('needs its reason')")
        page.click("#approve")
        page.wait("document.querySelector('#told').textContent.startsWith('Approved by ann')")
    assert "**Approved by ann**" in (walk_through(run) / "README.md").read_text()


def test_sides_are_what_the_server_says_they_are(chrome, tmp_path):
    """What stands first on the screen is what the line calls `shown_first`."""
    rows = pair_rows(6)
    found = opened(tmp_path, rows, double=0.0)
    with serving.served(found.app) as guard, chrome.page(f"{guard.address}&as=ann") as page:
        page.wait("!document.querySelector('#work').hidden")
        for n in range(6):
            press(page, better(page, rows))
            saved(page, n + 1)
    for line in folder.said(found.home).iter_rows(named=True):
        assert line["judgement"] == "chosen"
        assert line["shown_first"] == shown.first(0, "ann", line["item"])


def test_several_people_at_once(chrome, tmp_path):
    """Four annotators on one server: every row is judged once, by one of them."""
    found = opened(tmp_path, pair_rows(24), double=0.0)
    with serving.served(found.app) as guard:

        def work(name):
            with chrome.page(f"{guard.address}&as={name}") as page:
                while not page.js("!document.querySelector('#end').hidden"):
                    press(page, "t")

        threads = [threading.Thread(target=work, args=(n,)) for n in ("ann", "bob", "cid", "dee")]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    lines = folder.said(found.home).to_dicts()
    assert len(lines) == len({line["item"] for line in lines}) == 24
