/**
 * Every frame in and out. Only the rows in sight are elements; they are used again while scrolling, so that 10,000
 * frames cost no more than a screenful.
 */

import { byId, clock, copy, el } from "./dom.js";

const ROW_PX = 28; // as in console.css
const OVERSCAN = 6;
// Frames kept. The oldest go in lots, so that it costs nothing per frame.
const MOST = 10_000;
const LOT = 1_000;

/** What a frame is about gives its colour. */
export const FAMILIES = {
  message: "messages",
  receipt: "receipts",
  presence: "typing, presence",
  bounty: "bounties",
  sync: "replay, sync",
  link: "connection",
  ping: "pings",
  error: "errors",
};
const FAMILY_OF = [
  [/^message\.(delivered|read)$/, "receipt"],
  [/^(message|conversation|notification)\./, "message"],
  [/^(typing|presence)/, "presence"],
  [/^(bounty|subscribe|subscribed|unsubscribe)/, "bounty"],
  [/^(replay|sync)/, "sync"],
  [/^p[io]ng$/, "ping"],
  [/^(error|broken)/, "error"],
];
// What a row shows of a frame besides its type, the most telling first.
const TELLING = [
  "text", "title", "body", "code", "message", "status", "isTyping", "isOnline", "seq", "count", "truncated", "eventId",
  "reconnectAfterMs", "retryAfterMs", "duplicate", "replayed", "conversations", "bountyIds", "expiresAt", "ts",
  "userId", "senderId", "id", "conversationId",
];
const TELLING_MOST = 3;
const ID = /^[0-9a-f]{8}-[0-9a-f-]{27}$/;

const utf8 = new TextEncoder();

export class Frames {
  #all = [];
  #shown = [];
  #rows = [];
  #counts = {};
  #hidden = new Set();
  #number = 0;
  #selected = null;
  #isFollowing = true;
  #isDue = false;
  #list = byId("list");
  #sizer = byId("sizer");

  constructor() {
    this.#makeFamilies();
    this.#list.addEventListener("scroll", () => this.#scrolled(), { passive: true });
    this.#list.addEventListener("keydown", (event) => this.#key(event));
    this.#list.addEventListener("click", (event) => this.#clicked(event));
    byId("filter").addEventListener("input", () => this.#filter());
    byId("direction").addEventListener("change", () => this.#filter());
    byId("clear").addEventListener("click", () => this.#clear());
    byId("newest").addEventListener("click", () => this.#follow());
    byId("copy-frame").addEventListener("click", () => copy(byId("detail-text").textContent, byId("detail-text")));
    byId("close-detail").addEventListener("click", () => this.#closeDetail());
    byId("detail").addEventListener("keydown", ({ key }) => key === "Escape" && this.#closeDetail());
    new ResizeObserver(() => this.#later()).observe(this.#list);
  }

  /** Add a frame of `socket` ("messages" or "events"); `text` is what was on the wire. */
  add(socket, { direction, text, frame, at }) {
    const value = frame ?? parse(text);
    const type = typeof value?.type === "string" ? value.type : "broken";
    const safe = type === "auth.refresh" ? JSON.stringify({ ...value, token: "…" }) : text;
    this.#add({ socket, direction, text: safe, type, at, size: utf8.encode(text).length });
  }

  /** Add a line about a connection, between the frames. */
  note(socket, text, { isError = false } = {}) {
    const family = isError ? "error" : "link";
    this.#add({ socket, direction: "note", text, type: "socket", family, at: Date.now(), size: 0 });
  }

  #add(entry) {
    entry.number = this.#number += 1;
    entry.family ??= FAMILY_OF.find(([pattern]) => pattern.test(entry.type))?.[1] ?? "link";
    this.#all.push(entry);
    this.#counts[entry.family] = (this.#counts[entry.family] ?? 0) + 1;
    if (this.#matches(entry)) this.#shown.push(entry);
    if (this.#all.length > MOST + LOT) this.#forget();
    this.#later();
  }

  #forget() {
    const gone = this.#all.splice(0, LOT);
    for (const { family } of gone) this.#counts[family] -= 1;
    const first = this.#all[0].number;
    const kept = this.#shown.filter(({ number }) => number >= first);
    // What is in sight stays where it is.
    if (!this.#isFollowing) this.#list.scrollTop -= (this.#shown.length - kept.length) * ROW_PX;
    this.#shown = kept;
  }

  #clear() {
    this.#all = [];
    this.#shown = [];
    this.#counts = {};
    this.#select(null);
    this.#follow();
  }

  #makeFamilies() {
    for (const [family, name] of Object.entries(FAMILIES)) {
      const properties = { type: "button", class: "chip", "data-family": family, "aria-pressed": "true" };
      const button = el("button", properties, name, el("b"));
      button.addEventListener("click", () => {
        const isHidden = !this.#hidden.delete(family);
        if (isHidden) this.#hidden.add(family);
        button.setAttribute("aria-pressed", String(!isHidden));
        this.#filter();
      });
      byId("families").append(button);
    }
  }

  #matches({ family, direction, text, type }) {
    if (this.#hidden.has(family)) return false;
    const wanted = byId("direction").value;
    if (wanted && direction !== wanted) return false;
    const words = this.words ?? "";
    return !words || `${type} ${text}`.toLowerCase().includes(words);
  }

  #filter() {
    this.words = byId("filter").value.trim().toLowerCase();
    this.#shown = this.#all.filter((entry) => this.#matches(entry));
    this.#follow();
  }

  #follow() {
    this.#isFollowing = true;
    this.#later();
  }

  #scrolled() {
    const { scrollTop, clientHeight, scrollHeight } = this.#list;
    this.#isFollowing = scrollTop + clientHeight >= scrollHeight - ROW_PX;
    this.#later();
  }

  /** Draw once, before the next picture. */
  #later() {
    if (this.#isDue) return;
    this.#isDue = true;
    requestAnimationFrame(() => {
      this.#isDue = false;
      this.#draw();
    });
  }

  #draw() {
    const total = this.#shown.length;
    this.#sizer.style.height = `${total * ROW_PX}px`;
    if (this.#isFollowing) this.#list.scrollTop = total * ROW_PX;
    const { scrollTop, clientHeight } = this.#list;
    const first = Math.max(0, Math.floor(scrollTop / ROW_PX) - OVERSCAN);
    const last = Math.min(total, Math.ceil((scrollTop + clientHeight) / ROW_PX) + OVERSCAN);
    while (this.#rows.length < last - first) this.#addRow();
    // A row keeps its place in the pool by its index, so that scrolling by one changes one.
    const used = new Set();
    for (let index = first; index < last; index += 1) {
      const row = this.#rows[index % this.#rows.length];
      used.add(row);
      this.#fill(row, this.#shown[index], index, total);
    }
    for (const row of this.#rows) if (!used.has(row)) this.#putAway(row);
    // Only what is drawn can be pointed at.
    const isDrawn = [...used].some(({ entry }) => entry === this.#selected);
    if (isDrawn) this.#list.setAttribute("aria-activedescendant", `frame-${this.#selected.number}`);
    else this.#list.removeAttribute("aria-activedescendant");
    this.#drawAround(total);
  }

  #putAway(row) {
    row.entry = null;
    row.element.hidden = true;
    row.element.removeAttribute("id");
  }

  #addRow() {
    const row = newRow();
    this.#rows.push(row);
    this.#sizer.append(row.element);
  }

  #drawAround(total) {
    const all = this.#all.length;
    byId("count").textContent = total === all ? String(all) : `${total} of ${all}`;
    byId("empty").hidden = total > 0;
    byId("empty").textContent = all > 0 ? "No frame fits the filter." : "No frames yet.";
    byId("newest").hidden = this.#isFollowing || total === 0;
    for (const button of byId("families").children) {
      button.lastChild.textContent = this.#counts[button.dataset.family] || "";
    }
  }

  #fill(row, entry, index, total) {
    const { element } = row;
    if (row.entry !== entry) {
      row.entry = entry;
      element.hidden = false;
      element.id = `frame-${entry.number}`;
      element.dataset.family = entry.family;
      element.dataset.direction = entry.direction;
      row.time.textContent = clock(entry.at, { withMilliseconds: true });
      row.way.textContent = { in: "↓", out: "↑", note: "•" }[entry.direction];
      row.socket.textContent = entry.socket;
      row.type.textContent = entry.type;
      row.size.textContent = entry.size ? `${entry.size} B` : "";
      row.summary.textContent = entry.direction === "note" ? entry.text : summary(entry.text);
      const way = { in: "received", out: "sent", note: "" }[entry.direction];
      element.setAttribute("aria-label", `${way} ${entry.type}, ${entry.socket}: ${row.summary.textContent}`);
    }
    element.style.transform = `translateY(${index * ROW_PX}px)`;
    element.setAttribute("aria-selected", String(entry === this.#selected));
    element.setAttribute("aria-posinset", index + 1);
    element.setAttribute("aria-setsize", total);
  }

  #clicked(event) {
    const row = this.#rows.find(({ element }) => element.contains(event.target));
    if (row) this.#select(row.entry === this.#selected ? null : row.entry);
  }

  #key(event) {
    const step = { ArrowDown: 1, ArrowUp: -1, PageDown: 10, PageUp: -10, Home: -Infinity, End: Infinity }[event.key];
    if (event.key === "Escape") this.#select(null);
    if (step === undefined || this.#shown.length === 0) return;
    event.preventDefault();
    const newest = this.#shown.length - 1;
    const now = this.#selected ? this.#shown.indexOf(this.#selected) : -1;
    const index = now < 0 ? newest : Math.min(newest, Math.max(0, now + step));
    this.#select(this.#shown[index]);
    const top = index * ROW_PX;
    const { scrollTop, clientHeight } = this.#list;
    if (top < scrollTop) this.#list.scrollTop = top;
    else if (top + ROW_PX > scrollTop + clientHeight) this.#list.scrollTop = top + ROW_PX - clientHeight;
  }

  /** The keyboard goes on where the frame was chosen. */
  #closeDetail() {
    this.#select(null);
    this.#list.focus();
  }

  #select(entry) {
    this.#selected = entry;
    byId("detail").hidden = entry === null;
    if (entry) {
      const way = { in: "received", out: "sent", note: "" }[entry.direction];
      byId("detail-title").textContent = `${entry.type} ${way} at ${clock(entry.at, { withMilliseconds: true })}`;
      const value = parse(entry.text);
      byId("detail-text").textContent = value === undefined ? entry.text : JSON.stringify(value, null, 2);
    }
    this.#later();
  }
}

function newRow() {
  const part = (name) => el("span", { class: name });
  const names = ["time", "way", "socket", "type", "summary", "size"];
  const parts = Object.fromEntries(names.map((name) => [name, part(name)]));
  return { element: el("div", { class: "frame", role: "option" }, ...Object.values(parts)), entry: null, ...parts };
}

function parse(text) {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

/** Return what matters in a frame, in a line. */
function summary(text) {
  const frame = parse(text);
  if (frame === null || typeof frame !== "object") return text.slice(0, 200);
  const parts = [];
  for (const name of TELLING) {
    const value = frame[name];
    if (value === undefined || value === null) continue;
    parts.push(shown(name, value));
    if (parts.length === TELLING_MOST) break;
  }
  return parts.join(" · ");
}

function shown(name, value) {
  if (name === "text" || name === "message") return `“${String(value).slice(0, 200)}”`;
  if (typeof value === "object") return `${name} ${JSON.stringify(value).slice(0, 120)}`;
  return `${name} ${ID.test(value) ? `${value.slice(0, 8)}…` : value}`.slice(0, 120);
}
