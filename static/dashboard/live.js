// What happens right now: tiles, two charts, and how the server's parts are doing.

import { Chart } from "./charts.js";
import { at, make, say } from "./elements.js";
import { bytes, compact, count, millis, millisAxis, time } from "./format.js";

const KEPT = 300;

const CLOSE_MEANINGS = {
  1000: "the client's own close", 1001: "the page went away", 1002: "broken frames", 1005: "closed without a code",
  1006: "dropped without a close", 1007: "text that is not UTF-8", 1009: "a frame too big", 1011: "a fault of the server",
  1012: "the server restarts", 1013: "try again later", 4400: "too many bad frames", 4401: "no valid token",
  4408: "silent, or reads too slowly", 4429: "over a limit", other: "a code of the client's own",
};
const FAULTS = new Set(["1011", "1013"]);

const PARTS = { database: "Database", eventRelay: "Event relay", websocket: "WebSockets", redis: "Redis", push: "Push" };

const TILES = [
  { key: "connections", label: "Connections", text: count,
    about: (sample) => `${count(sample.messagingConnections)} messaging · ${count(sample.eventConnections)} events`
      + ` · ${count(sample.connections - sample.messagingConnections - sample.eventConnections)} dashboard` },
  { key: "peopleOnline", label: "People online", text: count, about: () => "with a messaging socket" },
  { key: "rooms", label: "Rooms", text: count, about: () => "conversations with somebody online" },
  { key: "messages", label: "Messages a second", text: count, about: (_, kept) => `${count(sum(kept, "messages"))} in five minutes` },
  { key: "deliveries", label: "Deliveries a second", text: count, about: (sample) => `frames of all types: ${count(sample.framesSent)}` },
  { key: "latencyP95", label: "Latency, p95", text: millis,
    about: (sample) => `p50 ${millis(sample.latencyP50)} · p99 ${millis(sample.latencyP99)}` },
];

const clock = (date) => time(date, true);

export class Live {
  constructor() {
    this.samples = [];
    this.tiles = TILES.map((tile) => new Tile(tile));
    at("tiles").replaceChildren(...this.tiles.map((tile) => tile.element));
    this.throughput = new Chart({
      title: "Throughput", note: "a second", time: clock, axisTime: clock, value: count, axis: compact, whole: true,
      empty: "No message in the last five minutes.",
      series: [
        { label: "Deliveries", color: "two", kind: "area" },
        { label: "Messages", color: "one", kind: "area" },
      ],
    });
    this.latency = new Chart({
      title: "Latency", note: "from taken in to told", time: clock, axisTime: clock, value: millis, axis: millisAxis,
      empty: "No message in the last five minutes, so nothing to time.",
      series: [
        { label: "p99", color: "three", kind: "line" },
        { label: "p95", color: "two", kind: "line" },
        { label: "p50", color: "one", kind: "line" },
      ],
    });
    at("live-charts").replaceChildren(this.throughput.element, this.latency.element);
    this.facts = new Facts(at("inside"));
  }

  /** Begin with the minutes that the server remembers; return whether there are any. */
  greet(hello) {
    const columns = Object.entries(hello.samples);
    this.samples = hello.samples.at.map((_, place) => Object.fromEntries(columns.map(([name, list]) => [name, list[place]])));
    if (this.samples.length) this.#draw();
    return this.samples.length > 0;
  }

  /** Go on by a second. */
  update({ sample, inside, errors, closes }) {
    this.samples.push(sample);
    if (this.samples.length > KEPT) this.samples.splice(0, this.samples.length - KEPT);
    this.#draw();
    showParts(inside.parts);
    this.facts.show({
      "Commit, p50 / p99": `${millis(inside.commitP50Ms)} / ${millis(inside.commitP99Ms)}`,
      "Messages a commit": inside.batchMean ?? "–",
      "Waiting to be written": count(inside.writerQueue),
      "Pool, busy of all": `${inside.poolBusy} of ${inside.poolSize}`,
      "Waiting for the pool": count(inside.poolWaiting),
      "Waiting for readers": bytes(inside.backlogBytes),
      "Readers that lag behind": count(inside.laggingConnections),
      "Event loop is late by": millis(inside.loopLagMs),
    });
    showCounts(at("errors"), errors, () => "", () => true, "No error sent.");
    showCounts(at("closes"), closes, (code) => CLOSE_MEANINGS[code] ?? "", (code) => FAULTS.has(code), "No socket closed.");
  }

  #draw() {
    for (const tile of this.tiles) tile.show(this.samples);
    if (document.hidden) return;
    const times = this.samples.map((sample) => sample.at / 1000);
    const line = (key) => this.samples.map((sample) => sample[key]);
    this.throughput.show(times, line("deliveries"), line("messages"));
    this.latency.show(times, line("latencyP99"), line("latencyP95"), line("latencyP50"));
  }
}

/** One number, large, with its last minutes as a line. */
class Tile {
  constructor({ key, label, text, about }) {
    this.key = key;
    this.text = text;
    this.aboutText = about;
    this.value = make("p", { class: "value", id: `live-${key}` }, "\u00a0");
    this.about = make("p", { class: "tile-about" }, "\u00a0");
    this.line = make("polyline", { class: "spark-line" });
    this.area = make("polygon", { class: "spark-area" });
    this.element = make("article", { class: "card tile", "aria-labelledby": `label-${key}` },
      make("h3", { id: `label-${key}` }, label), this.value, this.about,
      make("svg", { class: "spark", viewBox: "0 0 100 30", preserveAspectRatio: "none", "aria-hidden": "true" },
        this.area, this.line));
  }

  show(samples) {
    const newest = samples.at(-1);
    say(this.value, this.text(newest[this.key]));
    say(this.about, this.aboutText(newest, samples));
    const values = samples.slice(-60).map((sample) => sample[this.key] ?? 0);
    const most = Math.max(...values, 1e-9);
    const step = 100 / Math.max(1, values.length - 1);
    const points = values.map((value, place) => `${(place * step).toFixed(1)},${(28 - (value / most) * 25).toFixed(1)}`);
    this.line.setAttribute("points", points.join(" "));
    this.area.setAttribute("points", `0,30 ${points.join(" ")} ${((values.length - 1) * step).toFixed(1)},30`);
  }
}

/** A list of names and values whose elements stay, so that a reader is not thrown out of it each second. */
class Facts {
  constructor(list) {
    this.list = list;
    this.values = new Map();
  }

  show(facts) {
    for (const [name, text] of Object.entries(facts)) {
      let value = this.values.get(name);
      if (!value) {
        value = make("dd");
        this.values.set(name, value);
        this.list.append(make("div", {}, make("dt", {}, name), value));
      }
      say(value, String(text));
    }
  }
}

function showParts(parts) {
  at("parts").replaceChildren(...Object.entries(PARTS).filter(([name]) => parts[name]).map(([name, label]) => {
    const { status, latencyMs } = parts[name];
    return make("li", { "data-status": status }, label, " ",
      make("b", {}, status), latencyMs == null ? "" : ` ${millis(latencyMs)}`);
  }));
}

/** Show counts by code, the most first, with a bar each. */
function showCounts(box, counts, meaning, bad, empty) {
  const rows = Object.entries(counts).sort((one, other) => other[1] - one[1]);
  if (box.dataset.shown === String(rows)) return; // whoever reads in it is not thrown out each second
  box.dataset.shown = String(rows);
  if (!rows.length) {
    box.replaceChildren(make("p", { class: "nothing" }, empty));
    return;
  }
  const most = rows[0][1];
  box.replaceChildren(make("ul", { class: "counts" }, ...rows.slice(0, 8).map(([code, number]) =>
    make("li", { "data-bad": bad(code) },
      make("span", { class: "code" }, code), make("span", { class: "meaning" }, meaning(code)),
      make("b", {}, count(number)), make("meter", { min: 0, max: most, value: number, "aria-hidden": "true" })))));
}

function sum(samples, key) {
  return samples.reduce((all, sample) => all + sample[key], 0);
}
