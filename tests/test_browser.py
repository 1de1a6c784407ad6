"""Every page of the site and of the quick report, and every stored figure, as a reader sees them: in a
real browser, where there is one."""
import json
from pathlib import Path

import nbformat
import pytest
from browser import CHROMIUM, FAULTS, Browser, needs_browser

from noisy_course.lab import report
from noisy_course.lab.comparison import all_sides
from noisy_course.lab.results import read_results
from noisy_course.plots import curves
from noisy_course.lab.report import write_report
from noisy_course.lab.site import FIGURE, write_site

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
    """The site and the quick report on the results and chapters of the repository; the pages that they
    share are made once."""
    results, place = read_results(ROOT/"results"), tmp_path_factory.mktemp("pages")
    with pytest.MonkeyPatch.context() as patch:
        shared = list(report._pages(results, all_sides(results)))
        patch.setattr(report, "_pages", lambda *_: iter(shared))
        return dict(site=write_site(results, place/"site", ROOT/"nbs").parent,
                    report=write_report(results, place/"report").parent)

@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("kind", ["site", "report"])
def test_every_page_is_whole(browser, folders, kind, width):
    pages = sorted(folders[kind].rglob("*.html"))
    assert len(pages) > 60
    assert [fault for page in pages for fault in browser.faults(page, width, folders[kind])] == []


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
    macro=(r"<p>\boldsymbol x</p>", "raw formula"), unset=("<span class='math'>x</span>", "unset formula"),
    error=("<mjx-merror>x</mjx-merror>", "formula with an error"),
    blank=(FIGURE_HERE, "in view on load not drawn"),
    late=(f"<div style='height: 5000px'></div>{FIGURE_HERE}", "at the end of the page not drawn"),
    wide=(WIDE, "the page is wider"),
    unsigned=(f"<div style='overflow-x: auto'>{WIDE}</div>", "scrolls without a sign"),
    cut=(f"<div style='overflow-x: hidden'>{WIDE}</div>", "cut: "),
    left=("<p style='position: absolute; left: -200px'>far left</p>", "sticks out"))

@pytest.mark.parametrize("name", BAD)
def test_each_fault_is_seen(browser, tmp_path, name):
    body, expected = BAD[name]
    (tmp_path/"outside.png").write_bytes(b"")
    page = tmp_path/"folder/page.html"
    page.parent.mkdir()
    page.write_text(f"<!DOCTYPE html><title>x</title><body><main><p>Text.</p>{body}</main></body>",
                    encoding="utf-8")
    assert any(expected in fault for fault in browser.faults(page, 390, page.parent))

def test_a_sound_page_has_no_fault(browser, tmp_path):
    (tmp_path/"page.html").write_text(
        "<!DOCTYPE html><title>x</title><body><main><p>Text for $5.</p><pre>$x$</pre></main></body>",
        encoding="utf-8")
    assert browser.faults(tmp_path/"page.html", 390, tmp_path) == []
