"use strict";
// The page plays runs: a run is its frames (canvases after each step) and, once it ended, its result.
const at = (id) => document.getElementById(id);
let runs = [];
let timer = null;

const value = (id) => at(id).value.trim();
const number = (id) => (value(id) === "" ? undefined : Number(value(id)));

function request(side) {
  const prompt = at("prompt").value;
  const body = { seed: number("seed"), temperature: number("temperature"), steps: number("steps-" + side),
    schedule: value("schedule-" + side) || undefined, order: value("order-" + side) || undefined,
    sampler: value("sampler-" + side) || undefined, stream: true, stream_mode: "canvas", return_steps: true };
  if (/\[MASK/.test(prompt)) return ["/v1/fill", { ...body, template: prompt }];
  return ["/v1/completions", { ...body, prompt, max_tokens: number("tokens") }];
}

const headers = () => (value("key") ? { Authorization: "Bearer " + value("key") } : {});

async function* events(path, body) {
  const answer = await fetch(path, { method: "POST", headers: { "Content-Type": "application/json", ...headers() }, body: JSON.stringify(body) });
  if (answer.status === 401) at("locked").hidden = false;
  if (!answer.ok) throw new Error((await answer.json()).error.message);
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let left = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    left += value;
    const parts = left.split("\n\n");
    left = parts.pop();
    for (const part of parts) {
      const data = part.replace(/^data: /, "");
      if (data === "[DONE]") return;
      const event = JSON.parse(data);
      if (event.error) throw new Error(event.error.message);
      yield event;
    }
  }
}

async function play(run, path, body) {
  for await (const event of events(path, body)) {
    const choice = event.choices[0];
    if (!choice) continue;
    if (choice.canvas) run.frames.push(choice.canvas);
    if (choice.demask) run.told = choice.demask;
    const last = Math.max(...runs.map((one) => one.frames.length)) - 1;
    at("time").max = last;
    at("time").value = last;
    draw();
  }
}

// What is known of each token up to a time: the step that wrote it, and the entropy of the law it was drawn from.
function written(run, time) {
  const known = new Map();
  run.frames.slice(0, time + 1).forEach((frame) => frame.fresh.forEach((place, index) =>
    known.set(place, { step: frame.step, entropy: frame.entropies ? frame.entropies[index] : null })));
  return known;
}

const last = (run) => Math.max(1, run.frames.length - 2);
const most = () => Math.max(0.1, ...runs.flatMap((run) => run.frames.flatMap((frame) => frame.entropies || [])));

// Where on the scale of colours a token stands, from 0 to 1.
function shade(run, token, top) {
  if (at("colour").value === "step") return token.step / last(run);
  return token.entropy === null ? 0 : token.entropy / top;
}

function draw() {
  const time = Number(at("time").value);
  at("player").hidden = at("legend").hidden = !runs.length;
  at("step").textContent = `step ${time} of ${at("time").max}`;
  const top = most();
  const byStep = at("colour").value === "step";
  at("low").textContent = byStep ? "first" : "0 nats";
  at("high").textContent = byStep ? "last step" : `${top.toFixed(1)} nats`;
  at("canvases").replaceChildren(...runs.map((run) => panel(run, Math.min(time, run.frames.length - 1), top)));
}

function panel(run, time, top) {
  const box = document.createElement("article");
  box.className = "canvas";
  const head = document.createElement("h2");
  head.textContent = run.title;
  const text = document.createElement("p");
  text.className = "text";
  const frame = run.frames[time];
  const known = written(run, time);
  if (frame) {
    const fresh = new Set(frame.fresh);
    frame.cells.forEach((cell, place) => {
      const token = document.createElement("span");
      token.textContent = frame.masked[place] ? cell + " " : cell;
      if (frame.masked[place]) token.className = "masked";
      else if (known.has(place)) {
        const { step, entropy } = known.get(place);
        token.className = fresh.has(place) ? "unmasked fresh" : "unmasked";
        token.style.setProperty("--age", shade(run, known.get(place), top));
        token.title = `written at step ${step + 1}` + (entropy === null ? "" : `, ${entropy} nats`);
      }
      text.append(token);
    });
  }
  const facts = document.createElement("p");
  facts.className = "facts";
  facts.textContent = told(run, frame);
  box.append(head, text);
  if (frame) box.append(order(run, time, known, top));
  box.append(facts);
  return box;
}

// Position against step: which tokens were written when.
function order(run, time, known, top) {
  const map = document.createElement("canvas");
  const ratio = window.devicePixelRatio || 1;
  const [wide, high] = [600, 90];
  map.width = wide * ratio;
  map.height = high * ratio;
  map.className = "order";
  map.setAttribute("role", "img");
  map.setAttribute("aria-label", `order of unmasking: ${known.size} tokens written by step ${time}, position to the right, step downwards`);
  const paint = map.getContext("2d");
  const cells = run.frames[0].cells.length;
  const [x, y] = [map.width / cells, map.height / last(run)];
  paint.fillStyle = getComputedStyle(document.body).color;
  paint.globalAlpha = 0.12;
  if (time > 0) paint.fillRect(0, (time - 1) * y, map.width, Math.max(y, 1));
  paint.globalAlpha = 1;
  known.forEach((token, place) => {
    paint.fillStyle = `hsl(${260 - 220 * shade(run, token, top)} 70% 55%)`;
    paint.fillRect(place * x, token.step * y, Math.max(x - 1, 1), Math.max(y - 0.5, 2 * ratio));
  });
  return map;
}

function told(run, frame) {
  if (!frame) return "waiting for the first canvas";
  const parts = [frame.nfe === 1 ? "1 forward pass" : `${frame.nfe} forward passes`];
  if (run.told) parts.push(`tokens per forward ${run.told.tokens_per_forward}`, `law ${run.told.law}`);
  if (run.told) parts.push(run.told.certificate ? `certified: ${certified(run.told.certificate)}` : "no certificate: the law makes no claim, or no curve is known");
  return parts.join(" · ");
}

const certified = (certificate) => Object.entries(certificate)
  .filter(([, part]) => ["number", "string"].includes(typeof part))
  .map(([name, part]) => `${name} ${typeof part === "number" ? Number(part.toPrecision(4)) : part}`).join(", ");

const named = (side) => value("sampler-" + side) || [value("schedule-" + side) || "default schedule",
  value("order-" + side) || "default order", value("steps-" + side) && value("steps-" + side) + " steps"].filter(Boolean).join(", ");

function fail(error) {
  at("error").textContent = error.message;
  at("error").hidden = false;
}

function stop() {
  clearInterval(timer);
  timer = null;
  at("play").textContent = "▶";
}

at("form").addEventListener("submit", async (event) => {
  event.preventDefault();
  stop();
  at("error").hidden = true;
  at("go").disabled = true;
  const sides = at("compare").checked ? ["a", "b"] : ["a"];
  runs = sides.map((side) => ({ title: side.toUpperCase() + ": " + named(side), frames: [] }));
  try {
    await Promise.all(sides.map((side, index) => play(runs[index], ...request(side))));
  } catch (error) {
    runs = runs.filter((run) => run.frames.length);
    fail(error);
  }
  at("go").disabled = false;
  draw();
});

at("compare").addEventListener("change", () => { at("other").hidden = !at("compare").checked; });
at("time").addEventListener("input", () => { stop(); draw(); });
at("colour").addEventListener("change", draw);
at("play").addEventListener("click", () => {
  if (timer) return stop();
  const time = at("time");
  if (time.value === time.max) time.value = 0;
  at("play").textContent = "❚❚";
  timer = setInterval(() => {
    if (time.value === time.max) return stop();
    time.value = Number(time.value) + 1;
    draw();
  }, 150);
});
at("file").addEventListener("change", async () => {
  stop();
  at("error").hidden = true;
  try {
    const saved = JSON.parse(await at("file").files[0].text());
    if (!saved.schema || !Array.isArray(saved.passes) || !Array.isArray(saved.when)) throw new Error("this file is no run; expected what --save wrote");
    const frames = [];
    for (let step = -1; step < saved.passes.length; step++) {
      const masked = saved.when.map((when) => when > step);
      frames.push({ step, masked, cells: saved.cells.map((cell, place) => (masked[place] ? "░" : cell)),
        fresh: saved.when.flatMap((when, place) => (step >= 0 && when === step ? [place] : [])), nfe: step < 0 ? 0 : saved.passes[step] });
    }
    const nfe = saved.passes.at(-1);
    const told = { law: saved.law, certificate: saved.certificate, tokens_per_forward: Number((saved.new / Math.max(1, nfe)).toFixed(3)) };
    runs = [{ title: at("file").files[0].name, frames, told }];
    at("time").max = frames.length - 1;
    at("time").value = frames.length - 1;
    draw();
  } catch (error) { fail(error); }
});
fetch("/v1/models").then((answer) => {
  at("locked").hidden = answer.status !== 401;
  return answer.json();
}).then((body) => {
  if (body.data) at("model").textContent = body.data[0].id;
}).catch(() => {});
