/** Bounties: their status, a way to change it, and what the event stream says of it. */

import { byId, clock, el, tell } from "./dom.js";

const EVENTS_MOST = 30;
const LOAD_AFTER_MS = 300;
const dollars = new Intl.NumberFormat("en", { style: "currency", currency: "USD" });

export class Bounties {
  #realtime = null;
  #statuses;
  #bounties = new Map();
  #loading;

  constructor(statuses) {
    this.#statuses = statuses;
    this.#drawEvents();
  }

  get first() {
    return this.#bounties.keys().next().value ?? null;
  }

  /** Act as this person, and listen on this stream. */
  use(realtime, events) {
    this.#realtime = realtime;
    events.on("bounty.status", (event) => this.#happened(event));
    // More was missed than the stream could send again: read them all.
    events.on("replay.complete", ({ truncated }) => truncated && this.load());
  }

  async load() {
    try {
      const { bounties } = await this.#realtime.request("GET", "/api/bounties?limit=20");
      this.#bounties = new Map(bounties.map((bounty) => [bounty.id, bounty]));
      this.#draw();
    } catch (error) {
      tell(`Bounties: ${error.message}`, { isError: true });
    }
  }

  /** However many are new, they are read once. */
  #loadSoon() {
    clearTimeout(this.#loading);
    this.#loading = setTimeout(() => this.load(), LOAD_AFTER_MS);
  }

  #draw() {
    const rows = [...this.#bounties.values()].map((bounty) => this.#row(bounty));
    byId("bounty-list").replaceChildren(...(rows.length ? rows : [el("li", { class: "muted" }, "No bounties.")]));
  }

  #row({ id, title, status, amountCents }) {
    const options = this.#statuses.map((name) => el("option", { value: name, selected: name === status }, name));
    const choice = el("select", { "aria-label": `New status of ${title}` }, ...options);
    const change = async (event) => {
      event.preventDefault();
      try {
        await this.#realtime.request("POST", `/api/bounties/${id}/status`, { status: choice.value });
        tell(`Changed to ${choice.value}; the event follows.`);
      } catch (error) {
        tell(error.message, { isError: true });
      }
    };
    const amount = amountCents ? ` ${dollars.format(amountCents / 100)}` : "";
    return el("li", { "data-bounty": id },
      el("p", {}, el("b", { dir: "auto" }, title), amount, " ", el("span", { class: "status", "data-status": status }, status)),
      el("form", { onsubmit: change }, choice, el("button", { type: "submit" }, "Change")),
    ); // prettier-ignore
  }

  #happened({ id, status, timestamp, eventId, replayed }) {
    const bounty = this.#bounties.get(id);
    if (bounty) bounty.status = status;
    const chip = document.querySelector(`[data-bounty="${CSS.escape(id)}"] .status`);
    if (chip) {
      chip.textContent = chip.dataset.status = status;
    } else {
      this.#loadSoon(); // a new one
    }
    const title = bounty?.title ?? `${id.slice(0, 8)}…`;
    const again = replayed ? el("span", { class: "muted" }, " missed, sent again") : null;
    const row = el("li", {}, el("span", { class: "muted" }, `#${eventId} ${clock(timestamp)} `), el("b", { dir: "auto" }, title),
      " is ", el("span", { class: "status", "data-status": status }, status), again); // prettier-ignore
    const list = byId("bounty-events");
    list.querySelector(".nothing")?.remove();
    list.prepend(row);
    while (list.children.length > EVENTS_MOST) list.lastElementChild.remove();
  }

  #drawEvents() {
    byId("bounty-events").replaceChildren(el("li", { class: "nothing muted" }, "Nothing yet: change a status above."));
  }
}
