"""One headless Chromium for many pages, driven over its DevTools protocol: what a reader
would see, in numbers."""
import json
import re
import shutil
import subprocess
import tempfile
import time

import pytest
from websocket import create_connection

NAMES = "chromium", "chromium-browser", "google-chrome", "chrome"
CHROMIUM = next(filter(None, map(shutil.which, NAMES)), None)
needs_browser = pytest.mark.skipif(not CHROMIUM, reason="needs Chromium")
FLAGS = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
         "--hide-scrollbars", "--disable-extensions", "--disable-background-networking",
         "--disable-component-update", "--disable-sync", "--remote-debugging-port=0", "about:blank"]

# What stands on a page once it is drawn. A box that scrolls sideways must show it (class `more`); a page, a
# text or a figure must not stick out.
FAULTS = r"""(async () => {
  const wait = ms => new Promise(r => setTimeout(r, ms)), found = [];
  const name = e => e.tagName.toLowerCase() + (e.id ? "#" + e.id : "")
    + [...e.classList].map(c => "." + c).join("");
  const begins = e => e.textContent.trim().slice(0, 40);
  const inView = e => {
    const r = e.getBoundingClientRect();
    return r.height && r.top < innerHeight && r.bottom > 0;
  };
  const blank = () => [...document.querySelectorAll(".plot")].filter(
    p => inView(p) && !p.querySelector(".main-svg"));
  const drawn = async where => {
    for (let k = 0; k < 100 && blank().length; k++) await wait(50);
    for (const p of blank()) found.push("figure " + where + " not drawn: " + p.ariaLabel);
  };
  const unset = () => document.querySelector(".math") && !window.MathJax?.startup?.promise;
  for (let k = 0; k < 100 && unset(); k++) await wait(50);
  await window.MathJax?.startup?.promise?.catch(error => found.push("MathJax: " + error.message));
  await drawn("in view on load");
  for (const m of document.querySelectorAll(".math"))
    if (!m.querySelector("mjx-container")) found.push("unset formula: " + m.textContent.slice(0, 60));
  for (const e of document.querySelectorAll("mjx-merror, [data-mml-node=merror]"))
    found.push("formula with an error: " + e.textContent.slice(0, 60));
  const words = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let t; (t = words.nextNode());)
    if (/\$[^$]+\$|\\[(\[]|\\[a-zA-Z]{3}/.test(t.data)
        && !t.parentElement.closest("pre, code, script, style, noscript, mjx-container, .math"))
      found.push("raw formula: " + t.data.trim().slice(0, 60));
  if (/\$|\\/.test(document.title)) found.push("raw formula in the title: " + document.title);
  const root = document.documentElement, style = e => getComputedStyle(e);
  const scrolls = e => /auto|scroll/.test(style(e).overflowX);
  const cuts = e => /hidden|clip/.test(style(e).overflowX);
  if (Math.max(root.scrollWidth, document.body.scrollWidth) > innerWidth + 1)
    found.push("the page is wider than the screen: " + root.scrollWidth);
  for (const e of document.querySelectorAll("article *, main *")) {
    const over = e.scrollWidth - e.clientWidth > 1 && e.clientWidth > 0
      && !e.closest("svg, .plot .js-plotly-plot, .modebar, mjx-container");
    if (over && scrolls(e) && !(e.classList.contains("more") && (style(e).maskImage !== "none")))
      found.push("scrolls without a sign: " + name(e) + " " + begins(e));
    if (over && cuts(e) && e.clientWidth > 2 && !e.closest(".plot"))
      found.push("cut: " + name(e) + " " + begins(e));
    const r = e.getBoundingClientRect();
    if (r.width && r.height && (r.right > innerWidth + 1 || r.left < -1)
        && !e.closest("svg, .skip, .skip-to-content, .hidden")) {
      let box = e.parentElement;
      while (box && !scrolls(box) && !cuts(box)) box = box.parentElement;
      if (!box || box === document.body) found.push("sticks out: " + name(e));
    }
  }
  for (const first of document.querySelectorAll(".more tbody th:first-child"))
    if (style(first).position !== "sticky") {
      found.push("first column goes away: " + first.textContent.slice(0, 40));
      break;
    }
  const outside = () => {
    for (const plot of document.querySelectorAll(".plot")) {
      const frame = plot.getBoundingClientRect();
      for (const t of plot.querySelectorAll(".main-svg text")) {
        const r = t.getBoundingClientRect();
        if (r.width && (r.left < frame.left - 2 || r.right > frame.right + 2
                        || r.top < frame.top - 2 || r.bottom > frame.bottom + 2))
          found.push("text outside its figure: " + t.textContent + " in " + plot.ariaLabel);
      }
    }
  };
  outside();
  scrollTo(0, document.body.scrollHeight);
  await wait(30);
  await drawn("at the end of the page");
  outside();
  return [...new Set(found)];
})()"""


class Browser:
    "A Chromium with one tab."
    def __init__(self):
        self.folder, self.number, self.events = tempfile.mkdtemp(), 0, []
        self.process = subprocess.Popen([CHROMIUM, *FLAGS, f"--user-data-dir={self.folder}"],
                                        stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
        address = next(m[1] for line in self.process.stderr
                       if (m := re.search(r"listening on (ws://\S+)", line)))
        self.socket, self.session = create_connection(address, suppress_origin=True, timeout=60), {}
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        self.session = dict(
            sessionId=self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"])
        for domain in ("Page", "Runtime", "Log", "Network"): self.ask(f"{domain}.enable")
        self.ask("Page.setLifecycleEventsEnabled", enabled=True)

    def hear(self):
        message = json.loads(self.socket.recv())
        if "id" not in message: self.events.append(message)
        return message

    def ask(self, method, **parameters):
        self.number += 1
        self.socket.send(json.dumps(dict(id=self.number, method=method, params=parameters, **self.session)))
        while (answer := self.hear()).get("id") != self.number: pass
        assert "error" not in answer, (method, answer)
        return answer["result"]

    def go(self, url):
        "Load a page and wait until all that it names is there."
        loader = self.ask("Page.navigate", url=url)["loaderId"]
        while not any(e["method"] == "Page.lifecycleEvent" and e["params"]["name"] == "load"
                      and e["params"]["loaderId"] == loader for e in self.events):
            self.hear()

    def open(self, url, width, height=900):
        "Load a page in a window of this size and forget what was heard before."
        self.go("about:blank")
        self.ask("Emulation.setDeviceMetricsOverride", width=width, height=height,
                 deviceScaleFactor=1, mobile=False)
        self.events.clear()
        self.go(url)

    def see(self, script):
        "What a script returns in the page."
        got = self.ask("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in got, got
        return got["result"].get("value")

    def messages(self):
        """Errors of the console, requests that failed, and requests for anything but a file
        or data of the page itself."""
        for e in self.events:
            p = e["params"]
            if e["method"] == "Runtime.exceptionThrown":
                details = p["exceptionDetails"]
                yield f"exception: {details.get('exception', details).get('description', '')[:200]}"
            if e["method"] == "Runtime.consoleAPICalled" and p["type"] in ("error", "assert"):
                yield f"console: {p['args']}"
            if e["method"] == "Log.entryAdded" and p["entry"]["level"] == "error":
                yield f"log: {p['entry']['text']} {p['entry'].get('url', '')}"
            if e["method"] == "Network.loadingFailed" and not p.get("canceled"):
                yield f"request failed: {p['errorText']}"

    def asked_for(self):
        return [e["params"]["request"]["url"]
                for e in self.events if e["method"] == "Network.requestWillBeSent"]

    def faults(self, path, width, root):
        "All that is wrong with a page of a folder at a width."
        self.open(path.as_uri(), width)
        found = self.see(FAULTS)
        self.see("new Promise(r => setTimeout(r, 20))")
        outside = [f"leaves the folder: {url[:100]}" for url in self.asked_for()
                   if not url.startswith((root.resolve().as_uri() + "/", "data:", "blob:", "about:"))]
        return [f"{path.relative_to(root)} at {width}: {fault}"
                for fault in [*self.messages(), *outside, *found]]

    def picture(self, file, full=False):
        import base64
        file.write_bytes(
            base64.b64decode(self.ask("Page.captureScreenshot", captureBeyondViewport=full)["data"]))

    def close(self):
        self.socket.close()
        self.process.terminate()
        self.process.wait()
        self.process.stderr.close()
        shutil.rmtree(self.folder, ignore_errors=True)
