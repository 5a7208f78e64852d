"""The page of `gristmill explore` in a browser: what a person does, and what a row cannot do."""

import json
from pathlib import Path

import explored
import polars as pl
import pytest
from browser import chromium
from curation import walk_through

from gristmill.flows import config as configs
from gristmill.flows.pages.explore import Page
from gristmill.flows.pages.serving import served

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def run(tmp_path_factory, tiny):
    root = tmp_path_factory.mktemp("explored")
    folder, asked = explored.made(root, tiny)
    return root, folder, asked


@pytest.fixture(scope="module")
def guard(run):
    root, folder, _ = run
    page = Page(folder.parent, root / "store")
    with served(page.app()) as found:
        yield found
    page.close()


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with chromium(tmp_path_factory.mktemp("chromium")) as found:
        yield found


@pytest.fixture
def page(browser, guard):
    guard.reports.clear()
    with browser.page(guard.address) as found:
        found.wait("document.documentElement.dataset.ready === 'yes'")
        found.wait(
            "document.querySelector('#index').hidden && document.querySelector('.line .text')"
        )
        yield found
        assert not guard.reports
        assert not found.said
        assert all(
            r.startswith((f"http://127.0.0.1:{guard.port}/", "blob:")) for r in found.requests
        )


def counted(page):
    return page.text("#counted")


def lines(page):
    return page.js("[...document.querySelectorAll('.line .text')].map((e) => e.innerText)")


def ledger(folder: Path) -> pl.DataFrame:
    return pl.read_parquet(folder / "ledger")


def test_search_filter_brush_open_select_export_and_curate(page, run, tmp_path):
    _, folder, asked = run
    rows = ledger(folder)
    assert counted(page) == f"{rows.height} rows"

    page.press("/")
    page.write("#words", "rivers")
    page.wait("document.querySelector('#counted').innerText.startsWith('11 of')")
    assert all("rivers" in text for text in lines(page))
    page.write("#words", "")
    page.wait(f"document.querySelector('#counted').innerText === '{rows.height} rows'")

    page.click("fieldset[data-name=verdict] input[data-value=kept]")
    kept = rows.filter(verdict="kept")
    page.wait(f"document.querySelector('#counted').innerText.startsWith('{kept.height} of')")
    assert "below_budget" in page.text("fieldset[data-name=reason]")

    page.click("fieldset[data-name=verdict] input[data-value=kept]")
    x, y, width, height = page.box(".histogram[data-name=score]")
    page.drag((x + 1, y + 20), (x + width * 0.3, y + 20), (x + width * 0.5, y + 20))
    ends = "[...document.querySelectorAll('fieldset[data-number=score] input')].map((e) => e.value)"
    page.wait(f"{ends}.every(Boolean)")
    low, high = map(float, page.js(ends))
    brushed = rows.filter(pl.col("score").is_between(low, high))
    assert 0 < brushed.height < rows["score"].count()
    page.wait(f"document.querySelector('#counted').innerText.startsWith('{brushed.height} of')")

    page.click(".line")
    page.wait("!document.querySelector('#row').hidden")
    best = brushed.sort("rank").row(0, named=True)
    assert best["id"][:12] in page.text("#row h2")
    assert f"is {'' if best['verdict'] == 'kept' else 'not '}in toy" in page.text("#row .why")
    page.wait("document.querySelectorAll('#nearest .brief').length === 8")
    page.press("Escape")
    page.wait("document.querySelector('#row').hidden")

    page.click("#clear")
    page.wait(f"document.querySelector('#counted').innerText === '{rows.height} rows'")
    x, y, width, height = page.box("#map")
    page.drag((x + 2, y + 2), (x + width / 2, y + height - 2))
    page.wait("document.querySelector('#counted').innerText.includes(' of ')")
    selected = int(counted(page).split(" of ")[0])
    assert 0 < selected < rows.height

    page.js("document.querySelector('#kind').value = 'keep'")
    where = tmp_path / "downloads"
    page.call("Page.setDownloadBehavior", behavior="allow", downloadPath=str(where))
    page.click("#export")
    page.wait("!document.querySelector('#exported').hidden")
    assert "keep: [keep-toy.txt]" in page.text("#exported")
    page.wait("true")
    listed = where / "keep-toy.txt"
    for _ in range(400):
        if listed.exists() and listed.stat().st_size:
            break
        page.js("new Promise((done) => setTimeout(done, 10))")
    ids = listed.read_text().split()
    assert len(ids) == len(set(ids)) <= selected

    again = configs.CurateConfig.model_validate({**asked, "name": "again", "keep": str(listed)})
    second = ledger(walk_through(again))
    dropped = second.filter(reason="not_in_keep_list")
    assert not set(dropped["id"]) & set(ids)
    assert set(second.filter(verdict="kept")["id"]) <= set(ids)
    assert dropped.height


def test_the_map_zooms_takes_colours_and_a_lasso_and_scores_sort_and_brush(page, run):
    rows = ledger(run[1])
    page.wait("document.querySelector('.line input')")
    page.press("x")
    page.wait("document.querySelector('#picked').innerText === '1 picked'")
    page.reload()
    page.wait("document.documentElement.dataset.ready === 'yes'")
    assert page.text("#picked") == "1 picked", "picks outlive the page"
    page.wait("document.querySelector('.line input:checked')")
    page.click("#unpick")
    assert page.js("document.querySelector('#scope').value") == "shown"
    assert not page.js("document.querySelector('.line input:checked')")

    x, y, width, height = page.box("#map")
    corners = [(x + 2, y + 2), (x + width / 2, y + height / 2), (x + width - 2, y + height - 2)]

    def selected():
        page.wait("document.querySelector('#counted').innerText.includes(' of ')")
        return int(counted(page).split(" of ")[0])

    def whole():
        page.click("#map-all")
        page.wait(f"document.querySelector('#counted').innerText === '{rows.height} rows'")

    page.drag(*corners)
    everything = selected()
    whole()
    page.click("#map-in")
    page.click("#map-in")
    page.drag(*corners)
    page.wait(f"!document.querySelector('#counted').innerText.startsWith('{everything} of')")
    assert 0 < selected() < everything
    whole()
    page.click("[data-mode=lasso]")
    page.drag(corners[0], (x + width - 2, y + 2), (x + 2, y + height - 2), (x + 2, y + height / 2))
    assert 0 < selected() < everything
    whole()
    for column, seen in (("source", "further <b>rows</b>"), ("score", "no value")):
        page.js(
            f"(() => {{ const s = document.querySelector('#colour'); s.value = '{column}';"
            "s.dispatchEvent(new Event('change')); })()"
        )
        page.wait(f"document.querySelector('#legend').innerText.includes({json.dumps(seen)})")
    page.js(
        "(() => { const s = document.querySelector('#sort'); s.value = 'score_length';"
        "s.dispatchEvent(new Event('change')); })()"
    )
    best = rows.sort("score_length", descending=True, nulls_last=True)["score_length"][0]
    first = rows.with_row_index("at").filter(score_length=best)["at"].to_list()
    page.wait(f"{first}.includes(Number(document.querySelector('.line')?.dataset.at))")
    x, y, width, height = page.box(".histogram[data-name=score]")
    page.drag((x, y + 20), (x + width / 2, y + 20), (x + width, y + 20))
    assert selected() == rows["score"].count(), "from end to end, no row is cut off by rounding"


def test_ten_hostile_rows_stay_inert_and_legible(page, guard, run):
    _, folder, _ = run
    rows = ledger(folder).filter(pl.col("user_id").is_not_null())
    at = dict(ledger(folder).with_row_index("at").select("user_id", "at").iter_rows())
    assert rows.height
    for number, seen in enumerate(explored.HOSTILE.values()):
        page.write("#words", f"hostile-{number}")
        line = f".line[data-at='{at[f'hostile-{number}']}']"
        page.wait(
            f"document.querySelectorAll('.line').length === 1 && document.querySelector({json.dumps(line)})"
        )
        page.js(f"document.querySelector({json.dumps(line)}).click()")
        page.wait(f"document.querySelector('#turns')?.innerText.includes('hostile {number} ')")
        for written in ("false", "true"):
            page.wait(f"document.querySelector('#as-written')?.ariaPressed === '{written}'")
            said = page.text("#turns")
            assert seen in said, said[:400]
            assert f"thought <b>{number}</b>" in said
            page.click("#as-written")
        page.wait("document.querySelector('#as-written')?.ariaPressed === 'false'")
        strange = "#row :is(script,img,iframe,svg:not(.places svg),style,base,link,a,form,animate)"
        assert page.js(f"document.querySelectorAll('{strange}').length") == 0
    assert page.js("window.canary === undefined")
    assert page.js("document.baseURI").startswith(f"http://127.0.0.1:{guard.port}/")
    assert not page.alerts


def test_a_megabyte_comes_piece_by_piece(page, run):
    page.write("#words", "hostile-9")
    page.wait("document.querySelector('#counted').innerText.startsWith('1 of')")
    page.click(".line")
    page.wait("document.querySelector('#turns')?.innerText.includes('needle-first')")
    assert page.js("document.querySelector('#turns').innerText.length") < 60_000
    before = page.js("document.querySelector('#turns').innerText.length")
    page.click("#turns .more")
    page.wait(f"document.querySelector('#turns').innerText.length > {before} + 10_000")


def test_a_phone_that_is_offline_is_told_and_goes_on_where_it_was(page):
    offline = {"latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}
    page.call("Network.emulateNetworkConditions", offline=True, **offline)
    page.write("#words", "rivers")
    page.wait("document.querySelector('#told').innerText.includes('does not answer')")
    page.call("Network.emulateNetworkConditions", offline=False, **offline)
    page.wait("document.querySelector('#counted').innerText.startsWith('11 of')")
    assert all("ERR_INTERNET_DISCONNECTED" in said for said in page.said)
    page.said.clear()


def test_tokens_are_shaded_by_mask_and_loss(page):
    page.write("#words", "row-5")
    page.wait("document.querySelector('#counted').innerText.startsWith('1 of')")
    page.click(".line")
    page.wait("!document.querySelector('#row').hidden")
    page.click("#show-tokens")
    page.wait("document.querySelector('#tokens .m')", 60)
    assert "mean loss is" in page.text("#tokens")
    trained = page.js(
        "[...document.querySelectorAll('#tokens .m')].map((e) => e.innerText).join('')"
    )
    assert trained.startswith("Answer 5.")
    assert page.js("document.querySelectorAll('#tokens .m.l4').length") > 0


def test_tool_calls_markdown_and_maths_are_read(page):
    page.write("#words", "with-tools")
    page.wait("document.querySelector('#counted').innerText.startsWith('1 of')")
    page.click(".line")
    page.wait("document.querySelector('#turns mfrac')")
    assert "call 1: look<i>up" in page.text("#turns")
    assert "<b>hay</b>" in page.text("#turns")
    assert page.js("document.querySelectorAll('#turns li').length") == 2
    assert page.text("#turns strong") == "six"


def test_a_newer_version_is_told_and_opened_and_put_side_by_side(browser, run, tiny, tmp_path):
    root, folder, asked = run
    page = Page(folder.parent, root / "store")
    with served(page.app()) as guard, browser.page(guard.address) as tab:
        tab.wait("document.documentElement.dataset.ready === 'yes'")
        more = configs.CurateConfig.model_validate({**asked, "select": {"budget": "40%"}})
        newer = walk_through(more)
        try:
            tab.write("#words", "tea")
            tab.wait("!document.querySelector('#changed').hidden")
            assert newer.resolve().name in tab.text("#changed")
            tab.click("#changed button")
            tab.wait(
                f"document.querySelector('#title')?.innerText === 'toy {newer.resolve().name}'"
            )
            tab.wait("document.documentElement.dataset.ready === 'yes'")
            tab.js(
                "(() => { const s = document.querySelector('#beside'); s.value = "
                f"'{folder.resolve().name}'; s.dispatchEvent(new Event('change')); }})()"
            )
            tab.wait("document.querySelector('fieldset[data-name=change] input[data-value=added]')")
            tab.click("fieldset[data-name=change] input[data-value=added]")
            tab.wait(
                "document.querySelector('.line .moved')?.innerText.startsWith('added: dropped')"
            )
        finally:
            page.close()


def test_nothing_observed_and_no_store_are_told(browser, run, tmp_path):
    _, folder, _ = run
    page = Page(next(folder.glob("ledger/*.parquet")), tmp_path / "none")
    with served(page.app()) as guard, browser.page(guard.address, 390, 800, mobile=True) as tab:
        tab.wait("document.documentElement.dataset.ready === 'yes'")
        assert "only their ledger is shown" in tab.text("#told")
        tab.click("#map-box summary")
        tab.wait("document.querySelector('#map-note').innerText.includes('no map')")
        assert tab.js("document.documentElement.scrollWidth") <= 390
        tab.click(".line")
        tab.wait("!document.querySelector('#row').hidden")
        assert "neither in the publication nor in the store" in tab.text("#row")
        assert tab.js("document.documentElement.scrollWidth") <= 390
        assert not guard.reports
    page.close()


def test_every_control_has_a_name(page):
    page.click(".line")
    page.wait("!document.querySelector('#row').hidden")
    tree = page.call("Accessibility.getFullAXTree")["nodes"]
    roles = {
        "button",
        "checkbox",
        "textbox",
        "searchbox",
        "combobox",
        "link",
        "spinbutton",
        "image",
    }
    nameless = [
        json.dumps(n.get("role"))
        for n in tree
        if not n.get("ignored")
        and n.get("role", {}).get("value") in roles
        and not n.get("name", {}).get("value")
    ]
    assert not nameless
