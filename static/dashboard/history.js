// What was: read over REST, drawn as charts with a table behind each.

import { Chart } from "./charts.js";
import { at, make } from "./elements.js";
import { compact, count, seconds, share, stepAxis, stepTime } from "./format.js";

const REFRESH_MS = 60_000;
const WEEKDAYS = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"];
const LEVELS = 5;

export class History {
  /** @param options.token  a function; @param options.refused  told when the token is not good for this. */
  constructor({ token, refused }) {
    this.token = token;
    this.refused = refused;
    this.loads = 0;
    this.timer = 0;
    for (const radio of document.querySelectorAll("input[name=span]")) {
      radio.addEventListener("change", () => this.load());
    }
  }

  get span() {
    return document.querySelector("input[name=span]:checked").value;
  }

  /** Ask for the chosen span, now and once a minute. */
  async load() {
    const mine = ++this.loads;
    clearTimeout(this.timer);
    at("history").setAttribute("aria-busy", "true");
    let answer;
    try {
      const response = await fetch(`dashboard/history?span=${this.span}`, {
        headers: { Authorization: `Bearer ${this.token()}` }, cache: "no-store",
      });
      answer = await response.json();
      if (response.status === 401 || response.status === 403) {
        if (mine === this.loads) this.refused(answer.message);
        return;
      }
      if (!response.ok) throw new Error(answer.message);
    } catch (error) {
      if (mine === this.loads) this.#failed(error);
      return;
    }
    if (mine !== this.loads) return; // another span was chosen meanwhile
    this.timer = setTimeout(() => this.load(), REFRESH_MS);
    this.#show(answer);
  }

  /** Ask no more. */
  stop() {
    this.loads += 1;
    clearTimeout(this.timer);
  }

  #failed(error) {
    const again = make("button", { type: "button", class: "quiet" }, "Try again");
    again.addEventListener("click", () => this.load());
    const box = at("history-state");
    box.dataset.kind = "error";
    const reason = error instanceof TypeError ? "The server can't be reached." : error.message;
    box.replaceChildren(make("span", {}, `The history did not load. ${reason}`), again);
    box.hidden = false;
    at("history").setAttribute("aria-busy", "false");
    at("history").classList.toggle("blank", !this.charts);
    this.timer = setTimeout(() => this.load(), REFRESH_MS / 4);
  }

  #show(history) {
    const { total, points, stepS } = history;
    const box = at("history-state");
    const nothing = points.every((point) => !point.peakConnections && !point.messages);
    box.hidden = !nothing;
    box.dataset.kind = "empty";
    if (nothing) box.replaceChildren("Nothing was recorded in this span. History begins with the first full minute in which somebody is connected.");
    at("history").classList.remove("blank");
    at("history").setAttribute("aria-busy", "false");
    showTotals(total, history);
    if (this.stepS !== stepS) this.#build(stepS);
    this.#draw(points);
    showBusiest(history.busiest);
  }

  #build(stepS) {
    this.stepS = stepS;
    const time = (date) => stepTime(date, stepS);
    const note = { 60: "a minute", 3600: "an hour", 86400: "a day, UTC" }[stepS];
    const common = {
      time, axisTime: (date) => stepAxis(date, stepS), stepS, utc: stepS >= 86400, table: true, note,
    };
    const perStep = { ...common, value: count, axis: compact, whole: true };
    this.charts = {
      messages: new Chart({ ...perStep, title: "Messages", empty: "No message in this span.",
        series: [{ label: "Messages", color: "one", kind: "bars" }] }),
      people: new Chart({ ...perStep, title: "People", empty: "Nobody was here in this span.",
        series: [
          ...(stepS >= 3600 ? [{ label: "Active", color: "one", kind: "area" }] : []),
          { label: "Online at once", color: "two", kind: "line" }] }),
      rates: new Chart({ ...common, title: "Delivered and read", value: share, axis: share, top: 1,
        empty: "No message in this span, so nothing to deliver.",
        series: [{ label: "Delivered", color: "two", kind: "line" }, { label: "Read", color: "one", kind: "line" }] }),
      waits: new Chart({ ...common, title: "Time until delivered and read", value: seconds, note: "median", axis: seconds,
        empty: "Nothing was delivered or read in this span.",
        series: [{ label: "Read", color: "one", kind: "line" }, { label: "Delivered", color: "two", kind: "line" }] }),
      conversations: new Chart({ ...perStep, title: "New conversations", empty: "No conversation was begun in this span.",
        series: [{ label: "Conversations", color: "three", kind: "bars" }] }),
      churn: new Chart({ ...perStep, title: "Coming and going", empty: "Nobody connected in this span.",
        value: (value) => count(value == null ? value : Math.abs(value)),
        axis: (value) => compact(Math.abs(value)),
        series: [
          { label: "Connects", color: "two", kind: "bars" },
          { label: "Disconnects", color: "soft", kind: "bars" },
          { label: "Errors", color: "bad", kind: "line" }] }),
    };
    at("history-charts").replaceChildren(...Object.values(this.charts).map((chart) => chart.element));
  }

  #draw(points) {
    const times = points.map((point) => Date.parse(point.at) / 1000);
    const list = (key, factor = 1) => points.map((point) => (point[key] == null ? null : point[key] * factor));
    const { messages, people, rates, waits, conversations, churn } = this.charts;
    messages.show(times, list("messages"));
    people.show(times, ...(this.stepS >= 3600 ? [list("activePeople")] : []), list("peakPeople"));
    rates.show(times, list("deliveryRate"), list("readRate"));
    waits.show(times, list("readAfterS"), list("deliveredAfterS"));
    conversations.show(times, list("newConversations"));
    churn.show(times, list("connects"), list("disconnects", -1), list("errors", -1));
  }
}

function showTotals(total, { span }) {
  const facts = [
    ["Messages", count(total.messages)],
    [span === "hour" ? "Active people, about" : "Active people", count(total.activePeople)],
    ["New conversations", count(total.newConversations)],
    ["Delivered", share(total.deliveryRate), `half within ${seconds(total.deliveredAfterS)}`],
    ["Read", share(total.readRate), `half within ${seconds(total.readAfterS)}`],
    ["Most connected at once", count(total.peakConnections)],
  ];
  at("totals").replaceChildren(...facts.map(([name, text, about]) => make("div", {},
    make("dt", {}, name), make("dd", {}, text, about && text !== "–" ? make("small", {}, about) : ""))));
}

/** Show messages by weekday and hour, turned from UTC to the reader's own time. */
function showBusiest(utc) {
  const shift = -Math.round(new Date().getTimezoneOffset() / 60);
  const cell = (day, hour) => {
    const place = (((day * 24 + hour - shift) % 168) + 168) % 168;
    return utc[Math.floor(place / 24)][place % 24];
  };
  const most = Math.max(...utc.flat());
  if (!most) {
    at("busiest").replaceChildren(make("p", { class: "nothing" }, "No message in the last four weeks."));
    return;
  }
  const hours = [...Array(24).keys()];
  const two = (hour) => String(hour).padStart(2, "0");
  const head = make("tr", {}, make("td"), ...hours.map((hour) => make("th", { scope: "col" },
    make("span", { class: hour % 3 ? "unseen" : "" }, two(hour)))));
  const rows = WEEKDAYS.map((name, day) => make("tr", {}, make("th", { scope: "row" }, name), ...hours.map((hour) => {
    const number = cell(day, hour);
    const level = number ? Math.max(1, Math.ceil((number / most) * LEVELS)) : 0;
    return make("td", { "data-level": level, title: `${name} ${two(hour)}:00, ${count(number)} messages` },
      make("span", { class: "unseen" }, count(number)));
  })));
  const key = make("p", { class: "heat-key", "aria-hidden": "true" }, "fewer ",
    ...[...Array(LEVELS + 1).keys()].map((level) => make("i", { "data-level": level })), ` more (up to ${count(most)})`);
  at("busiest").replaceChildren(
    make("table", { class: "heat" }, make("caption", { class: "unseen" }, "Messages by weekday and hour"),
      make("thead", {}, head), make("tbody", {}, ...rows)), key);
}
