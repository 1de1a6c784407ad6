"""The one shell around every page of report and site: menus, search, contents, and no broken link."""
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from html import unescape
from pathlib import Path
from posixpath import dirname, normpath

import jinja2
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from noisy_course.basics import atomic_write, require
from noisy_course.lab.cells import ASSETS


# A page is a fragment of HTML with a place in the menus. Links that begin with a slash start at the folder of
# the pages, which may lie anywhere.
@dataclass(frozen=True)
class Page:
    "A page, without what all pages have around them."
    file: str # e.g. "tables/patrini2017_table2.html"
    title: str # in menus
    body: str # HTML
    menu: str = "" # e.g. "Papers"; empty where no menu has it
    part: str = "" # of the menu, e.g. "Patrini et al. 2017"

@cache
def template(
    name: str, # of a file in `assets/pages`
) -> jinja2.Template: # which escapes its values
    "A template of the pages."
    loader = jinja2.FileSystemLoader(ASSETS/"pages", encoding="utf-8")
    return jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True,
                              lstrip_blocks=True).get_template(name)

def draw(
    part: str, # "table", "grid", "figure", "sections", "results" or "cell"
    *values: object, # from `noisy_course.lab.sections`
) -> Markup: # HTML
    "What the template makes of a part of a page."
    return getattr(template("parts.html").module, part)(*values)


# Contents, search and checks read the page itself.
HEADING = re.compile(r'<h(?P<level>[1-6])(?: id="(?P<id>[^"]*)")?>(?P<title>.*?)</h[1-6]>', re.DOTALL)
SILENT = re.compile(r'<(script|style|td|summary)\b.*?</\1>|<span class="math.*?</span>', re.DOTALL)
LINK = re.compile(r'\b(?:href|src)="(?![a-z]+:)([^"]*)"')

def contents(
    body: str, # HTML
) -> list[tuple[int, str, Markup]]: # level, id and title of each heading of the second and third level
    "What a page has, in order."
    return [(int(m["level"]), m["id"], Markup(re.sub(r"</?a\b[^>]*>", "", m["title"])))
            for m in HEADING.finditer(str(body)) if m["level"] in "23" and m["id"]]

def words(
    html: str, # of a page
) -> str: # one line
    "What can be found in a text: no numbers of tables, no formulas, no scripts."
    seen = re.sub(r"</?(?:a|abbr|b|code|em|i|small|span|strong)\b[^>]*>", "", SILENT.sub(" ", html))
    return " ".join(unescape(re.sub(r"<[^>]*>", " ", seen)).split())

def entries(
    page: Page, # with headings
) -> Iterator[list[str]]: # link, title of the page, heading, text
    "A page as the search knows it, an entry for each heading."
    for part in re.split(r"(?=<h[1-6][ >])", str(page.body)):
        heading = HEADING.match(part)
        if heading:
            at = page.file + (f"#{heading['id']}" if heading["id"] else "")
            where = ", ".join(filter(None, [page.title, page.part]))
            yield [at, where, words(heading["title"]), words(part[heading.end():])]

def broken(
    pages: Sequence[Page], # all
    files: Sequence[str], # names of the other files
) -> list[str]: # "page: link"
    "The links that lead nowhere."
    ids = {page.file: set(re.findall(r'\bid="([^"]*)"', page.body)) | {""} for page in pages}
    ids |= {name: {""} for name in files}
    def leads(page, link):
        path, _, anchor = unescape(link).partition("#")
        inside = path[1:] if path.startswith("/") else normpath(f"{dirname(page.file)}/{path}").lstrip("/")
        return anchor in ids.get(inside if path else page.file, ())
    return [f"{page.file}: {link}" for page in pages for link in LINK.findall(page.body)
            if not leads(page, link)]


# The search is a page like any other, with all texts beside it in a script: a page that is opened from a
# folder may load scripts and nothing else.
SEARCH = Page("search.html", "Search", '<h1>Search</h1>\n<p class="count" role="status"></p>\n'
              '<ol class="found"></ol>')

def _scripts(page):
    wanted = dict(plotly='class="plot', math='class="math', found='class="found"')
    names = dict(plotly=["plotly.min.js"], math=["math.js", "mathjax.js"], found=["texts.js"])
    return [name for key, sign in wanted.items() if sign in page.body for name in names[key]] + ["pages.js"]

def _menus(pages):
    menus = {}
    for page in pages:
        if page.menu: menus.setdefault(page.menu, {}).setdefault(page.part, []).append(page)
    return menus

def _whole(pages):
    "Each page with its shell, by the name of its file."
    shell, menus = template("page.html"), _menus(pages)
    for page, before, after in zip(pages, [None, *pages], [*pages[1:], None]):
        root = "../" * page.file.count("/")
        body = Markup(re.sub(r'\b(href|src)="/', rf'\1="{root}', str(page.body)))
        yield page.file, shell.render(page=page, root=root, body=body, menus=menus, before=before,
                                      after=after, contents=contents(page.body), scripts=_scripts(page))


# A file is written whole, or left alone where it says the same already; the front page comes last. What an
# earlier call wrote and this one does not is removed.
def write_pages(
    pages: Sequence[Page], # in order, the front page first
    folder: str | Path, # made if missing
    files: dict[str, str | bytes] = {}, # further files by name, e.g. pictures
) -> Path: # of the front page
    "Write pages with all that they need to open without internet."
    pages, folder = [*pages, SEARCH], Path(folder)
    files = files | {f"assets/{name}": (ASSETS/"pages"/name).read_text(encoding="utf-8")
                     for name in ("pages.css", "pages.js", "math.js")}
    wrong = broken(pages, list(files))
    require(not wrong, "pages", "links with a target", "; ".join(wrong))
    files |= {"assets/plotly.min.js": get_plotlyjs(),
              "assets/texts.js": f"const TEXTS = {_json([e for page in pages for e in entries(page)])};\n",
              **dict(reversed([*_whole(pages)]))}
    listed = folder/".pages.json"
    for name in set(json.loads(listed.read_text()) if listed.exists() else []) - set(files):
        (folder/name).unlink(missing_ok=True)
    for name, content in files.items(): _save(folder/name, content)
    _save(listed, json.dumps(sorted(files)))
    return folder/pages[0].file

def _json(values): return json.dumps(values, ensure_ascii=False, separators=(",", ":"))

def _save(path, content):
    content = content.encode() if isinstance(content, str) else content
    if path.is_file() and path.read_bytes() == content: return
    with atomic_write(path) as part: part.write_bytes(content)
