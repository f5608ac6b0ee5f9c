"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const sections = [...document.querySelectorAll(".sequence")];
const pick = document.querySelector(".pick select");
const players = sections.map((section, number) => player(section, data.sequences[number]));
let shown = 0;

function player(section, sequence) {
  const find = (selector) => section.querySelector(selector);
  const tokens = new Map(
    [...section.querySelectorAll(".token")].map((node) => [Number(node.dataset.position), node])
  );
  const slider = find("input"), play = find(".play"), speed = find(".speed");
  const said = find(".said"), detail = find(".detail"), mark = find(".current");
  const lines = [...section.querySelectorAll(".calls tbody tr")];
  const last = sequence.steps.length;
  const committed = new Map();
  sequence.steps.forEach((step, index) =>
    step.tokens.forEach((token) => committed.set(token.position, { ...token, index, call: step.call }))
  );
  let frame = last, timer = null, looked = null, before = null;

  const percent = (value) => (value < 0 ? "committed last by request" : "probability " + value.toFixed(3));

  function describe(position) {
    const found = committed.get(position);
    const parts = [];
    if (found && found.index < frame) {
      parts.push(`column ${position}, “${found.text}”: ${data.letters[found.reason]} (${found.reason}) in call ${found.call}, ${percent(found.confidence)}`);
    } else {
      parts.push(`column ${position}: still open`);
    }
    sequence.steps.slice(0, frame).forEach((step) =>
      step.rejected.filter((draft) => draft.position === position).forEach((draft) =>
        parts.push(`“${draft.text}” was tested in call ${step.call} and not kept, ${percent(draft.confidence)}`)
      )
    );
    return parts.join("; ") + ".";
  }

  function summary() {
    if (frame === 0) return `Before the first call: ${tokens.size} columns are open.`;
    const step = sequence.steps[frame - 1];
    const counts = {};
    step.tokens.forEach((token) => (counts[token.reason] = (counts[token.reason] || 0) + 1));
    const kinds = Object.entries(counts).map(([letter, count]) => `${count} ${data.letters[letter]} (${letter})`);
    const rejected = step.rejected.length;
    const stand = [...committed.values()].filter((token) => token.index < frame && token.reason !== "E").length;
    return (
      `Call ${step.call} of ${sequence.calls}, ${data.routes[step.route]}, ${step.rows} ${step.rows === 1 ? "row" : "rows"}: ` +
      `${kinds.length ? kinds.join(", ") : "no token"} committed` +
      (rejected ? `; ${rejected} tested and not kept (×)` : "") +
      `. ${stand} tokens stand, ${(stand / Math.max(step.call, 1)).toFixed(2)} for each call.`
    );
  }

  function show(wanted) {
    frame = Math.min(Math.max(wanted, 0), last);
    const step = frame ? sequence.steps[frame - 1] : { tokens: [], rejected: [] };
    const tested = new Set(step.rejected.map((draft) => draft.position));
    tokens.forEach((node, position) => {
      const found = committed.get(position);
      node.classList.toggle("open", !found || found.index >= frame);
      node.classList.toggle("now", Boolean(found) && found.index === frame - 1);
      node.classList.toggle("tested", tested.has(position));
      node.setAttribute("aria-label", describe(position));
    });
    lines.forEach((line, index) => line.classList.toggle("now", index === frame - 1));
    if (mark) {
      mark.setAttribute("y", String((frame - 1) * data.cell));
      mark.setAttribute("visibility", frame ? "visible" : "hidden");
    }
    slider.value = String(frame);
    slider.setAttribute("aria-valuetext", frame ? `commit ${frame} of ${last}, call ${step.call}` : "before the first call");
    said.textContent = summary();
    detail.textContent = looked === null ? "Point at a token, or go through them with the up and down keys." : describe(looked);
    find(".back").disabled = frame === 0;
    find(".next").disabled = frame === last;
  }

  function stop() {
    clearInterval(timer);
    timer = null;
    play.textContent = "▶ Play";
    said.setAttribute("aria-live", "polite");
  }

  function start() {
    if (frame === last) show(0);
    play.textContent = "❚❚ Pause";
    // A reader's voice could not follow.
    said.setAttribute("aria-live", "off");
    timer = setInterval(() => {
      show(frame + 1);
      if (frame === last) stop();
    }, 800 / Number(speed.value));
  }

  function toggle() {
    if (timer === null) start();
    else stop();
  }

  function go(wanted) {
    stop();
    show(wanted);
  }

  function look(position) {
    looked = position;
    tokens.forEach((node, other) => (node.tabIndex = other === position ? 0 : -1));
    detail.textContent = describe(position);
  }

  function walk(by) {
    const positions = [...tokens.keys()];
    const at = positions.indexOf(Number(document.activeElement.dataset.position));
    const node = tokens.get(positions[Math.min(Math.max(at + by, 0), positions.length - 1)]);
    if (node) node.focus();
  }

  [...tokens.values()].forEach((node, index) => {
    const position = Number(node.dataset.position);
    node.tabIndex = index ? -1 : 0;
    for (const event of ["focus", "mouseenter", "click"]) node.addEventListener(event, () => look(position));
  });
  find(".back").addEventListener("click", () => go(frame - 1));
  find(".next").addEventListener("click", () => go(frame + 1));
  play.addEventListener("click", toggle);
  slider.addEventListener("input", () => go(Number(slider.value)));
  speed.addEventListener("change", () => {
    if (timer !== null) { stop(); start(); }
  });
  find(".controls").hidden = false;
  show(last);
  return {
    go, stop, toggle, walk,
    step: (by) => go(frame + by),
    end: () => go(last),
    print: () => { before = frame; show(last); },
    printed: () => show(before === null ? frame : before),
  };
}

function choose(number) {
  players.forEach((each) => each.stop());
  shown = number;
  sections.forEach((section, other) => (section.hidden = other !== number));
}

if (pick) {
  pick.closest(".pick").hidden = false;
  pick.addEventListener("change", () => choose(Number(pick.value)));
}
choose(0);

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("select, summary")) return;
  const isToken = event.target.classList.contains("token");
  const keys = {
    ArrowLeft: (each) => each.step(-1),
    ArrowRight: (each) => each.step(1),
    Home: (each) => each.go(0),
    End: (each) => each.end(),
  };
  if (isToken || event.target === document.body) {
    keys[" "] = (each) => each.toggle();
  }
  if (isToken) {
    keys.ArrowUp = (each) => each.walk(-1);
    keys.ArrowDown = (each) => each.walk(1);
  }
  if (keys[event.key]) {
    event.preventDefault();
    keys[event.key](players[shown]);
  }
});
addEventListener("beforeprint", () => players.forEach((each) => each.print()));
addEventListener("afterprint", () => players.forEach((each) => each.printed()));
