"use strict";
// Bytes as they arrive: shaded by entropy, with commits and scratchpads, as `report/passage.py` draws a whole passage.
// A fact is {byte, entropy, commit, scratchpad}. A server sends what was so right before the byte: its own entropy, and
// whether a patch ended there. Drawn is what is so right after it, which the next byte brings along. An entropy is null
// where there is none.

const utf8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

function decoded(facts, at, length) {
  try {
    return utf8.decode(Uint8Array.from(facts.slice(at, at + length), (fact) => fact.byte));
  } catch {
    return "";
  }
}

// How many bytes the character at `at` has by its first byte.
function announced(byte) {
  if (byte < 0xc2 || byte > 0xf4) return 1;
  return byte < 0xe0 ? 2 : byte < 0xf0 ? 3 : 4;
}

// Bytes of the showable character at `at`; 1 where there is none of several bytes.
function characterLength(facts, at) {
  const length = announced(facts[at].byte);
  if (length === 1 || at + length > facts.length) return 1;
  const text = decoded(facts, at, length);
  // A mark would join the byte before it, and look like that byte's.
  return text && !/^[\p{C}\p{Z}\p{M}]/u.test(text) ? length : 1;
}

function glyph(byte) {
  if (byte === 0x0a) return "⏎";
  if (byte === 0x09) return "⇥";
  if (byte >= 0x20 && byte < 0x7f) return String.fromCharCode(byte);
  return "‹" + byte.toString(16).padStart(2, "0") + "›";
}

// The texts of the bytes of the character at `at`, "" for the rest of one that its first byte shows.
function glyphs(facts, at) {
  const length = characterLength(facts, at);
  const here = facts.slice(at, at + length);
  const marked = here.slice(0, -1).some((fact) => fact.commit || fact.scratchpad);
  if (length > 1 && !marked) return [decoded(facts, at, length), ...Array(length - 1).fill("")];
  return here.map((fact) => glyph(fact.byte));
}

function shade(nats, shades, full) {
  if (nats === null) return 0;
  // To even at halves, as Python rounds.
  const exact = (nats / full) * (shades - 1);
  const down = Math.floor(exact);
  const rounded = exact - down === 0.5 ? down + (down % 2) : Math.round(exact);
  return Math.min(Math.max(rounded, 0), shades - 1);
}

// Draws facts into an element as they come.
class Drawing {
  constructor(element) {
    this.element = element;
    this.shades = Number(element.dataset.shades);
    this.full = Number(element.dataset.fullShadeNats);
    this.limit = Number(element.dataset.limit);
    this.facts = [];
    this.drawn = 0;
    element.replaceChildren();
  }

  prompt(bytes) {
    this.facts = Array.from(bytes, (byte) => ({ byte, entropy: null, commit: false, scratchpad: false, given: true }));
    this.given = this.facts.length;
    this.draw(this.given - 1);
  }

  add(sent) {
    for (const { byte, entropy, commit, scratchpad } of sent) {
      Object.assign(this.facts.at(-1) ?? {}, { entropy, commit, scratchpad });
      this.facts.push({ byte, entropy: null, commit: false, scratchpad: false });
    }
    this.draw(this.facts.length - 1);
  }

  // Nothing more comes.
  end() {
    this.draw(this.facts.length);
  }

  // Draw the characters whose bytes are among the first `known`, of which all is known.
  draw(known) {
    const cells = document.createDocumentFragment();
    while (this.drawn < Math.min(known, this.limit)) {
      const last = known === this.facts.length;
      if (!last && this.drawn + announced(this.facts[this.drawn].byte) > known) break;
      for (const text of glyphs(this.facts, this.drawn)) this.cell(cells, text);
    }
    this.element.append(cells);
  }

  cell(cells, text) {
    const n = this.drawn++;
    const fact = this.facts[n];
    const cell = document.createElement("i");
    const classes = ["e" + shade(fact.entropy, this.shades, this.full)];
    if (fact.commit) classes.push("k");
    if (fact.scratchpad) classes.push("s");
    if (text.startsWith("‹")) classes.push("h");
    if (text === "⏎" || text === "⇥") classes.push("n");
    if (fact.given) classes.push("p");
    cell.className = classes.join(" ");
    const nats = fact.entropy === null ? "" : `, ${fact.entropy.toFixed(2)} nats`;
    const where = fact.given ? "prompt" : `byte ${n - this.given}`;
    cell.title = `${where}: ${fact.byte.toString(16).padStart(2, "0")}${nats}`;
    cell.textContent = text;
    cells.append(cell);
    if (fact.byte === 0x0a) cells.append("\n");
  }
}

// The objects of a stream of server-sent events.
async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const blocks = (rest + value).split("\n\n");
    rest = blocks.pop();
    for (const block of blocks) {
      const data = block.replace(/^data: /, "");
      if (data === "[DONE]") return;
      yield JSON.parse(data);
    }
  }
}

function summary(facts, limit, began, firstByte, now) {
  const commits = facts.filter((fact) => fact.commit).length;
  const scratchpads = facts.filter((fact) => fact.scratchpad).length;
  const seconds = (now - began) / 1000;
  if (!facts.length) return `0 bytes in ${seconds.toFixed(2)} s`;
  const calls = ((commits + scratchpads) / facts.length).toFixed(4);
  return (
    `${facts.length} bytes in ${seconds.toFixed(2)} s: ${(facts.length / seconds).toFixed(1)} bytes per second, the ` +
    `first after ${((firstByte - began) / 1000).toFixed(2)} s; ${commits} commits and ${scratchpads} scratchpads: ` +
    `${calls} trunk calls per byte` +
    (facts.length > limit ? `; the first ${limit} bytes are drawn` : "")
  );
}

function start() {
  const by = (id) => document.getElementById(id);
  const status = by("status");
  let running = null;

  function say(text, invalid = false) {
    status.textContent = text;
    status.classList.toggle("invalid", invalid);
  }

  function asked() {
    const body = { prompt: by("prompt").value, stream: true, trace: true };
    for (const name of ["max_tokens", "temperature", "top_p", "seed"]) {
      if (by(name).value !== "") body[name] = Number(by(name).value);
    }
    if (by("stop").value !== "") body.stop = by("stop").value;
    if (!by("trained").checked) body.threshold = Number(by("threshold").value);
    return body;
  }

  function busy(controller) {
    running = controller;
    by("generate").disabled = controller !== null;
    by("halt").disabled = controller === null;
  }

  async function generate(controller) {
    const body = asked();
    const drawing = new Drawing(by("passage"));
    drawing.prompt(new TextEncoder().encode(body.prompt));
    const began = performance.now();
    const sent = [];
    let firstByte = null;
    let problem = "";
    let reason = "";
    say("Waiting for the first byte …");
    try {
      const response = await fetch("v1/completions", {
        method: "POST",
        headers: { "Content-Type": "application/json" },
        body: JSON.stringify(body),
        signal: controller.signal,
      });
      if (!response.ok) {
        say((await response.json()).error.message, true);
        return;
      }
      for await (const event of events(response.body)) {
        if (event.error) {
          problem = event.error.message;
          break;
        }
        const choice = event.choices[0];
        if (choice.scratchpatch.length) firstByte ??= performance.now();
        drawing.add(choice.scratchpatch);
        sent.push(...choice.scratchpatch);
        reason = choice.finish_reason ?? reason;
        say(`${sent.length} bytes …`);
      }
    } catch (error) {
      problem = controller.signal.aborted ? "stopped by you" : error.message;
    }
    drawing.end();
    if (reason === "stop") problem = "the model or a stop string ended the text";
    say(summary(sent, drawing.limit, began, firstByte, performance.now()) + (problem && ` (${problem})`));
  }

  by("form").addEventListener("submit", async (event) => {
    event.preventDefault();
    if (running) return;
    busy(new AbortController());
    try {
      await generate(running);
    } finally {
      busy(null);
    }
  });
  by("halt").addEventListener("click", () => running?.abort());
  const dial = () => {
    by("threshold").disabled = by("trained").checked;
    by("threshold_text").textContent = `${Number(by("threshold").value).toFixed(2)} nats`;
  };
  by("threshold").addEventListener("input", dial);
  by("trained").addEventListener("change", dial);
  by("prompt").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) by("form").requestSubmit();
  });
  dial();
}

if (typeof document !== "undefined") start();
