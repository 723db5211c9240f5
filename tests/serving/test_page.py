"""The page: what it may load, what it says of a model's name, and that it draws bytes as reports do."""

import base64
import hashlib
import html
import json
import random
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from scratchpatch.report import passage
from scratchpatch.serving import page

SCRIPT = Path(page.__file__).with_name("page.js")
NAME = "</title><script>alert('&\"é')</script>"


def test_the_page_is_whole_and_its_policy_names_its_script_and_style(running):
    status, headers, body = running.ask("GET", "/")
    text, policy = body.decode(), headers["content-security-policy"]
    assert status == 200 and headers["content-type"] == "text/html; charset=utf-8"
    assert headers["x-content-type-options"] == "nosniff"
    for tag, directive in (("script", "script-src"), ("style", "style-src")):
        (inside,) = re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(inside.encode()).digest()).decode()
        assert f"{directive} 'sha256-{digest}';" in policy
    for directive in ("default-src 'none'", "connect-src 'self'", "frame-ancestors 'none'", "form-action 'none'"):
        assert directive in policy
    assert not re.search(r"https?:|<link|<img|@import|url\(|\son\w+=|\sstyle=", text)
    assert "$" not in re.sub(r"<script>.*?</script>", "", text, flags=re.DOTALL)


def test_the_name_of_a_model_is_text():
    text = page.make(NAME).html
    assert text.count(html.escape(NAME)) == 2 and NAME not in text


def test_the_script_writes_data_as_text_alone():
    for way in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "Function("):
        assert way not in SCRIPT.read_text()


def test_every_field_has_a_label_and_the_script_finds_its_elements():
    text, script = page.make("m").html, SCRIPT.read_text()
    ids = re.findall(r'\bid="(\w+)"', text)
    assert len(ids) == len(set(ids)) and set(re.findall(r'by\("(\w+)"\)', script)) <= set(ids)
    fields = re.findall(r'<(?:input|textarea) id="(\w+)"', text)
    assert len(fields) >= 8
    for name in fields:
        inside = rf"<label[^>]*>(?:(?!</label>).)*<(?:input|textarea) id=\"{name}\""
        assert f'<label for="{name}"' in text or re.search(inside, text, re.DOTALL), name


# Enough of a browser's document to draw into.
DRAW = """
const fs = require("fs"), vm = require("vm");
class Element {
  constructor() { this.children = []; this.dataset = %s; }
  append(...more) { for (const one of more) this.children.push(...(one.fragment ? one.children : [one])); }
  replaceChildren() { this.children = []; }
}
const made = { TextDecoder, Uint8Array };
vm.createContext(made);
vm.runInContext(fs.readFileSync(process.argv[1], "utf8") + "\\nglobalThis.Drawing = Drawing;", made);
made.document = {
  createElement: () => new Element(),
  createDocumentFragment: () => Object.assign(new Element(), { fragment: true }),
};
const drawn = JSON.parse(fs.readFileSync(0, "utf8")).map((parts) => {
  const element = new Element(), drawing = new made.Drawing(element);
  drawing.prompt(parts[0]);
  for (const part of parts.slice(1)) drawing.add(part);
  drawing.end();
  return element.children.map((one) => (typeof one === "string" ? one : [one.className, one.title, one.textContent]));
});
console.log(JSON.stringify(drawn));
"""
CHARACTERS = ["a", "\n", "\t", "<", "é", "\u0301", "€", "\u00a0", "\u200b", "😀", "\U000e0001", "語", "\x7f", "‹"]


def random_passage(rng: random.Random) -> passage.Passage:
    data = "".join(rng.choices(CHARACTERS, k=30)).encode()
    # Some characters are damaged.
    data = bytes(rng.randrange(256) if rng.random() < 0.1 else byte for byte in data)
    entropy = np.array([rng.uniform(0, 5) if rng.random() < 0.9 else np.nan for _ in data])
    commit, scratchpad = ([rng.random() < share for _ in data] for share in (0.15, 0.1))
    return passage.Passage(data, entropy, np.array(commit), np.array(scratchpad))


def sent(one: passage.Passage, given: int) -> list[dict]:
    """The facts that a server sends of the bytes behind the first `given`: of each, what was so right before it."""
    after = zip(one.entropy.tolist(), one.commit.tolist(), one.scratchpad.tolist(), strict=True)
    before = [(np.nan, False, False), *after]
    return [
        {"byte": byte, "entropy": None if np.isnan(entropy) else entropy, "commit": commit, "scratchpad": scratchpad}
        for byte, (entropy, commit, scratchpad) in list(zip(one.data, before, strict=False))[given:]
    ]


def drawn_by_reports(one: passage.Passage, given: int) -> list:
    """[classes, title, text] of each byte, and line breaks, of a passage whose first `given` bytes are a prompt."""
    known = np.arange(len(one.data)) >= given - 1
    # What comes after the last byte nobody knows.
    known[-1] = False
    entropy = np.where(known, one.entropy, np.nan)
    _, _, inside = passage.to_html(
        passage.Passage(one.data, entropy, one.commit & known, one.scratchpad & known)
    ).partition('<div class="passage"')
    cells = []
    for classes, title, text, newline in re.findall(r'<i class="(.*?)" title="(.*?)">(.*?)</i>(\n?)', inside):
        n = int(re.match(r"byte (\d+)", title)[1])
        title = title.replace(f"byte {n}", "prompt" if n < given else f"byte {n - given}")
        cells += [[classes + " p" * (n < given), title, html.unescape(text)], *newline]
    return cells


@pytest.mark.skipif(shutil.which("node") is None, reason="needs node, which runs the page's script")
def test_bytes_that_arrive_in_parts_are_drawn_as_reports_draw_them():
    rng = random.Random(7)
    passages, parts = [(random_passage(rng), rng.choice((0, 1, 9))) for _ in range(60)], []
    for one, given in passages:
        facts = sent(one, given)
        cuts = sorted({0, len(facts), *rng.choices(range(len(facts)), k=12)})
        parts.append([list(one.data[:given]), *(facts[a:b] for a, b in zip(cuts, cuts[1:], strict=False))])
    data = {"shades": str(passage.SHADES), "fullShadeNats": str(passage.FULL_SHADE_NATS), "limit": str(passage.LIMIT)}
    command = ["node", "-e", DRAW % json.dumps(data), str(SCRIPT)]
    ran = subprocess.run(command, input=json.dumps(parts), capture_output=True, text=True, timeout=60, check=True)
    for (one, given), drawn in zip(passages, json.loads(ran.stdout), strict=True):
        assert drawn == drawn_by_reports(one, given)
