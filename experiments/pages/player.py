"""The movie of the rolling cache as one HTML page, and single frames of it as drawings.

The page needs no network. On paper, and without script, it shows a few frames as a strip.
"""

import json
from dataclasses import asdict
from html import escape
from typing import Any

from experiments.frames import (
    Frame,
    LayerFrame,
    LayerShape,
    MovieResult,
    describe,
    marks,
    narration,
    stills,
)
from experiments.pages.charts import Drawing
from experiments.pages.shapes import LETTER, ROW, text
from experiments.pages.style import PAGE_STYLE

STILL_WIDTH = 680  # pixels
CELL, TALL = 54, 38  # pixels: width and height of a slot in a drawing
COMPACT = 24  # layers with more slots are drawn in smaller cells on the page

_STYLE = """
.controls { position: sticky; top: 0; z-index: 1; background: var(--paper); padding: 0.6rem 0;
            display: flex; flex-wrap: wrap; gap: 0.5rem; align-items: center;
            border-bottom: 1px solid var(--line); }
.controls button { font: inherit; min-width: 2.8rem; padding: 0.35rem 0.7rem; cursor: pointer;
                   color: var(--ink); background: var(--band); border: 1px solid var(--line);
                   border-radius: 6px; }
.controls input { flex: 1 1 12rem; accent-color: var(--c0); }
#count { min-width: 6.5rem; font-variant-numeric: tabular-nums; }
#words { display: flex; flex-wrap: wrap; gap: 0.15rem; margin: 0.9rem 0; font-size: 0.9rem; }
#words span { padding: 0 0.25rem; border-radius: 4px; color: var(--soft);
              white-space: pre-wrap; border-bottom: 3px solid transparent; }
#words .past { color: var(--ink); }
#words .call { border-bottom-color: var(--c2); }
#words .query { background: var(--c1); color: var(--paper); }
#say { min-height: 3.2em; margin: 0.5rem 0; }
.layer h3 { font-size: 1rem; margin: 1.1rem 0 0.3rem; }
.cells { display: flex; flex-wrap: wrap; gap: 0.25rem; }
.cells .plus { align-self: center; padding: 0 0.3rem; color: var(--soft); font-size: 0.85rem; }
.cell { width: 4.2rem; height: 4.6rem; padding: 0.15rem 0.2rem; text-align: center;
        border: 2px solid var(--line); border-radius: 6px; background: var(--band);
        color: var(--soft); font-size: 0.8rem; line-height: 1.3; overflow: hidden;
        white-space: nowrap; }
.cell b { display: block; font-size: 1.05rem; font-weight: 600; }
.cell small, .cell i { display: block; font-style: normal; font-size: 0.68rem; min-height: 1.3em; }
.cell.empty { background: none; border-style: dashed; }
.cell.sink { border-style: double; border-width: 4px; border-color: var(--soft); }
.cell.seen { background: color-mix(in srgb, var(--c0) 32%, var(--paper)); color: var(--ink); }
.cell.own { background: color-mix(in srgb, var(--c1) 45%, var(--paper)); color: var(--ink); }
.cell.written { border-color: var(--c4); }
.cell.written i { color: var(--c4); font-weight: 600; }
.cell.chunk { border-color: var(--c2); }
.small .cell { width: 2.9rem; height: 3.4rem; font-size: 0.68rem; }
.small .cell b { font-size: 0.85rem; }
.small .cell small { display: none; }
.legend .cell { display: inline-block; width: 1.6rem; height: 1.1rem; vertical-align: middle;
                margin: 0 0.3rem 0 0.8rem; }
.strip { display: none; }
@media print { .app { display: none; } .strip { display: block; } }
"""

_SCRIPT = """
const movie = JSON.parse(document.getElementById("movie").textContent);
const slider = document.getElementById("slider");
let at = 0, timer = null;

function make(tag, kind, words) {
  const element = document.createElement(tag);
  element.className = kind;
  element.textContent = words;
  return element;
}

function cell(position, kinds, top, bottom) {
  const box = make("div", ["cell", position < 0 ? "empty" : "", ...kinds].join(" "), "");
  const word = position < 0 ? "" : movie.tokens[position];
  box.append(make("small", "", top), make("b", "", position < 0 ? "-" : position),
             make("span", "", word.trim()), make("i", "", bottom));
  box.title = word;
  return box;
}

function layerOf(frame, shape, layer) {
  const cells = make("div", "cells" + (shape.slots > movie.compact ? " small" : ""), "");
  const written = new Map(layer.writes.map((w) => [w.slot, w]));
  const look = (p, seen) => !seen ? "" : p === frame.query ? "own" : "seen";
  layer.slots.forEach((p, slot) => {
    const w = written.get(slot);
    const change = !w ? "" : w.before < 0 ? "new" : w.before + " \\u2192 " + w.after;
    const kinds = [look(p, layer.marks[0][slot]), w ? "written" : "",
                   slot < shape.sinks ? "sink" : ""];
    cells.append(cell(p, kinds, slot < shape.sinks ? "sink " + slot : "slot " + slot, change));
  });
  if (layer.beside.length) cells.append(make("div", "plus", "+ chunk"));
  layer.beside.forEach((p, n) =>
    cells.append(cell(p, ["chunk", look(p, layer.marks[1][n])], "", "")));
  const box = make("div", "layer", "");
  box.append(make("h3", "", shape.title), cells);
  return box;
}

function show(n) {
  at = Math.max(0, Math.min(n, movie.frames.length - 1));
  const frame = movie.frames[at];
  slider.value = at;
  document.getElementById("count").textContent = `frame ${at + 1} of ${movie.frames.length}`;
  document.getElementById("say").textContent = frame.words;
  document.getElementById("words").replaceChildren(...movie.tokens.map((word, p) => make("span",
    [p <= frame.last ? "past" : "", p >= frame.first && p <= frame.last ? "call" : "",
     p === frame.query ? "query" : ""].join(" "), word.replace(/\\n/g, "\\u23ce"))));
  document.getElementById("layers").replaceChildren(
    ...frame.layers.map((layer, l) => layerOf(frame, movie.layers[l], layer)));
  if (at === movie.frames.length - 1) stop();
}

function stop() {
  clearInterval(timer);
  timer = null;
  document.getElementById("play").textContent = "Play";
}

function toggle() {
  if (timer) return stop();
  if (at === movie.frames.length - 1) show(0);
  document.getElementById("play").textContent = "Pause";
  timer = setInterval(() => show(at + 1), 1000);
}

document.getElementById("play").onclick = toggle;
document.getElementById("back").onclick = () => { stop(); show(at - 1); };
document.getElementById("next").onclick = () => { stop(); show(at + 1); };
slider.max = movie.frames.length - 1;
slider.oninput = () => { stop(); show(Number(slider.value)); };
document.onkeydown = (event) => {
  if (event.target === slider) return;
  if (event.key === "ArrowLeft") { stop(); show(at - 1); }
  if (event.key === "ArrowRight") { stop(); show(at + 1); }
};
show(Number(location.hash.slice(1)) - 1 || 0);
"""

_BODY = """
<div class="controls">
<button id="play" type="button">Play</button>
<button id="back" type="button" aria-label="one frame back">&larr;</button>
<button id="next" type="button" aria-label="one frame on">&rarr;</button>
<input id="slider" type="range" min="0" value="0" aria-label="frame">
<span id="count" class="soft"></span>
</div>
<p id="say" aria-live="polite"></p>
<div id="words"></div>
<div id="layers"></div>
<p class="legend soft"><span class="cell own"></span>the query's own key
<span class="cell seen"></span>seen by the query
<span class="cell"></span>in the cache, not seen
<span class="cell empty"></span>empty
<span class="cell written"></span>written in this frame (old &rarr; new position)
<span class="cell sink"></span>slot of a sink
<span class="cell chunk"></span>a chunk beside the ring</p>
"""


def movie_page(result: MovieResult) -> str:
    """Return the whole movie as HTML."""
    strip = "\n".join(
        f"<figure class='wide'>{drawing.svg()}<figcaption>{escape(drawing.caption)}</figcaption>"
        "</figure>"
        for drawing in (still(result, number) for number in stills(result))
    )
    data = json.dumps(_data(result), separators=(",", ":")).replace("<", "\\u003c")
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>The rolling cache, token by token</title>
<style>{PAGE_STYLE}{_STYLE}</style>
</head>
<body>
<main>
<h1>The rolling cache, token by token</h1>
<p class="soft">The model: {escape(result.source)}. A box is a slot with the position of the token
that it holds. The positions were read from the cache while the model read this text.</p>
<div class="app">{_BODY}</div>
<noscript><style>.app {{ display: none; }} .strip {{ display: block; }}</style></noscript>
<div class="strip">
{strip}
</div>
</main>
<script id="movie" type="application/json">{data}</script>
<script>{_SCRIPT}</script>
</body>
</html>
"""


def _data(result: MovieResult) -> dict[str, Any]:
    """Return what the script shows: it only places what is computed here."""
    frames = []
    for frame in result.frames:
        data = asdict(frame) | {"words": narration(result, frame)}
        for layer, shape, shown in zip(frame.layers, result.layers, data["layers"], strict=True):
            shown["marks"] = [[int(seen) for seen in part] for part in marks(layer, shape)]
            del shown["seen"]
        frames.append(data)
    layers = [
        {"title": describe(shape), "sinks": shape.sinks, "slots": shape.slots}
        for shape in result.layers
    ]
    return {"tokens": result.tokens, "layers": layers, "frames": frames, "compact": COMPACT}


def still(result: MovieResult, number: int) -> Drawing:
    """Return frame `number`, counted from 0, as a drawing."""
    frame, elements, y = result.frames[number], [], ROW + 14.0
    for shape, layer in zip(result.layers, frame.layers, strict=True):
        y += 16
        elements.append(text(4, y, describe(shape)))
        parts, height = _row(result, frame, shape, layer, y + 8)
        elements += parts
        y += 8 + height
    return Drawing(
        f"Frame {number + 1} of {len(result.frames)}", STILL_WIDTH, round(y + 8), elements,
        f"{narration(result, frame)} Orange: the query's own key; blue: keys that it sees; grey: "
        "in the cache, not seen; outlined: written in this frame, with the old and new position.",
    )  # fmt: skip


def _row(
    result: MovieResult, frame: Frame, shape: LayerShape, layer: LayerFrame, top: float
) -> tuple[list[str], float]:
    """Draw the slots of a layer and the chunk beside them; return the parts and their height."""
    in_slots, in_chunk = marks(layer, shape)
    written = {w.slot: w for w in layer.writes}
    slots = enumerate(zip(layer.slots, in_slots, strict=True))
    shown = [(p, seen, written.get(slot)) for slot, (p, seen) in slots]
    beside = [(p, seen, None) for p, seen in zip(layer.beside, in_chunk, strict=True)]
    per_row, line = (STILL_WIDTH - 8) // CELL, TALL + (16 if written else 4)
    parts = []
    begin = -(-len(shown) // per_row) if beside and len(shown) + len(beside) >= per_row else 0
    for place, (position, seen, write) in enumerate([*shown, *beside]):
        in_beside = place >= len(shown)
        index = place + in_beside  # one cell apart from the slots
        if in_beside and begin:
            index = begin * per_row + 1 + place - len(shown)
        x, y = 4 + index % per_row * CELL, top + index // per_row * line
        if in_beside and place == len(shown):
            parts.append(text(x - CELL / 2 - 2, y + TALL / 2 + 4, "+ chunk", "soft middle"))
        word = result.tokens[position].strip() if position >= 0 else ""
        color = "f1" if position == frame.query else "f0"
        parts += _box(x, y, position, word, color if seen else "")
        if write is not None:
            words = "new" if write.before < 0 else f"{write.before} → {write.after}"
            parts += [
                f'<rect class="s4" fill="none" stroke-width="2" x="{x + 1}" y="{y + 1}" '
                f'width="{CELL - 6}" height="{TALL - 2}"/>',
                text(x + CELL / 2 - 2, y + TALL + 11, words, "soft middle"),
            ]
    return parts, (index // per_row + 1) * line


def _box(x: float, y: float, position: int, word: str, color: str) -> list[str]:
    """Draw a slot with its position and the token's text; `color` "" is a key that is not seen."""
    box = f'x="{x:.1f}" y="{y:.1f}" width="{CELL - 4}" height="{TALL}"'
    parts = [f'<rect class="empty" {box}/>']
    if color:
        parts.append(f'<rect class="{color}" opacity="0.45" {box}/>')
    center = x + CELL / 2 - 2
    parts.append(text(center, y + 15, str(position) if position >= 0 else "–", "middle"))
    letters = int((CELL - 4) / LETTER)
    parts.append(text(center, y + 31, word[:letters], "middle" if color else "soft middle"))
    return parts
