"""Every page of site and quick report as a reader sees it: in a real browser, where there is one."""
import re
from pathlib import Path

import pytest
from browser import Browser, needs_browser

from noisy_course.lab import report
from noisy_course.lab.comparison import all_sides
from noisy_course.lab.results import read_results
from noisy_course.lab.report import write_report
from noisy_course.lab.site import write_site

ROOT = Path(__file__).parents[1]
WIDTHS = (1280, 390)
pytestmark = needs_browser

@pytest.fixture(scope="module")
def browser():
    "One process for all pages."
    found = Browser()
    yield found
    found.close()

@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    "Site and quick report on the results and chapters of the repository; what they share is made once."
    results, place = read_results(ROOT/"results"), tmp_path_factory.mktemp("pages")
    with pytest.MonkeyPatch.context() as patch:
        shared = list(report.result_pages(results, all_sides(results)))
        patch.setattr(report, "result_pages", lambda *_: iter(shared))
        return dict(site=write_site(results, place/"site", ROOT/"nbs").parent,
                    report=write_report(results, place/"report").parent)

@pytest.mark.parametrize("width", WIDTHS)
def test_every_page_of_the_site_is_whole(browser, folders, width):
    pages = sorted(folders["site"].rglob("*.html"))
    assert len(pages) > 130
    assert [fault for page in pages for fault in browser.faults(page, width, folders["site"])] == []

def article(page): return re.search(r"<article>.*</article>", page.read_text(encoding="utf-8"), re.DOTALL)[0]

@pytest.mark.parametrize("width", WIDTHS)
def test_the_quick_report_is_whole(browser, folders, width):
    "Its pages are those of the site, with shorter menus; so a few are enough."
    site, quick = folders["site"], folders["report"]
    pages = sorted(page.relative_to(quick) for page in quick.rglob("tables/*.html"))
    assert len(pages) > 60 and all(article(quick/page) == article(site/page) for page in pages)
    shown = [Path("index.html"), Path("search.html"), *pages[::20]]
    assert [fault for page in shown for fault in browser.faults(quick/page, width, quick)] == []


# The eyes themselves: a page with one fault each, which must be seen

FIGURE_HERE = '<div class="plot" aria-label="a figure" style="height: 200px"></div>'
WIDE = "<table><tr>" + "".join(f"<td>{k} wide</td>" for k in range(60)) + "</tr></table>"
BAD = dict(
    console=("<script>console.error('oh')</script>", "console"),
    exception=("<script>throw new Error('oh')</script>", "exception"),
    missing=("<script src='gone.js'></script>", "request failed"),
    outside=("<img src='../outside.png'>", "leaves the folder"),
    net=("<img src='http://127.0.0.1:9/x.png'>", "leaves the folder"),
    dollars=("<p>By $x^2$</p>", "raw formula"), raw=(r"<p>By \(x\)</p>", "raw formula"),
    macro=(r"<p>\boldsymbol x</p>", "raw formula"),
    unset=("<span class='math'>x</span>", "unset formula"),
    error=("<mjx-merror>x</mjx-merror>", "formula with an error"),
    blank=(FIGURE_HERE, "in view on load not drawn"),
    late=(f"<div style='height: 5000px'></div>{FIGURE_HERE}", "at the end of the page not drawn"),
    wide=(WIDE, "the page is wider"),
    unsigned=(f"<div style='overflow-x: auto'>{WIDE}</div>", "scrolls without a sign"),
    cut=(f"<div style='overflow-x: hidden'>{WIDE}</div>", "cut: "),
    left=("<p style='position: absolute; left: -200px'>far left</p>", "sticks out"))
BARE = "<!DOCTYPE html><title>x</title><body><main>{}</main></body>"

@pytest.mark.parametrize("name", BAD)
def test_each_fault_is_seen(browser, tmp_path, name):
    body, expected = BAD[name]
    (tmp_path/"outside.png").write_bytes(b"")
    page = tmp_path/"folder/page.html"
    page.parent.mkdir()
    page.write_text(BARE.format(f"<p>Text.</p>{body}"), encoding="utf-8")
    assert any(expected in fault for fault in browser.faults(page, 390, page.parent))

def test_a_sound_page_has_no_fault(browser, tmp_path):
    (tmp_path/"page.html").write_text(BARE.format("<p>Text for $5.</p><pre>$x$</pre>"), encoding="utf-8")
    assert browser.faults(tmp_path/"page.html", 390, tmp_path) == []
