// Charts, drawn by uPlot. The library is asked for when the first chart is, so the page paints without it.

import { make } from "./elements.js";

// Steps of an axis of whole numbers: 1, 2, 5, 10, … a billion.
const WHOLE = [...Array(10).keys()].flatMap((power) => [1, 2, 5].map((factor) => factor * 10 ** power));

let loading = null;
const charts = new Set();

function library() {
  loading ??= new Promise((resolve, reject) => {
    document.head.append(make("link", { rel: "stylesheet", href: "static/vendor/uplot.min.css" }));
    const script = make("script", { src: "static/vendor/uplot.iife.min.js" });
    script.onload = () => resolve(window.uPlot);
    script.onerror = () => {
      loading = null;
      reject(new Error("The chart library did not load."));
    };
    document.head.append(script);
  });
  return loading;
}

matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  for (const chart of charts) chart.redraw();
});

/**
 * A chart in a card of its own.
 *
 * @param options.title      what it shows
 * @param options.note       a few words beside the title
 * @param options.series     [{label, color (a CSS variable's name), kind: "line" | "area" | "bars"}]
 * @param options.value      (number) → text, for tooltip and table
 * @param options.axis       (number) → text, for the axis; `value` if there is none
 * @param options.time       (Date) → text
 * @param options.axisTime   the same for the axis, where there is less room
 * @param options.stepS      seconds from one value to the next
 * @param options.utc        whether the time axis is UTC's
 * @param options.whole      whether the axis has whole numbers only: there is no half message
 * @param options.top        a fixed upper end, where there is one
 * @param options.empty      what to say when there is nothing to draw
 * @param options.table      whether the numbers are also there as a table
 */
export class Chart {
  constructor(options) {
    this.options = options;
    this.id = `chart-${options.title.toLowerCase().replaceAll(/[^a-z]+/g, "-")}`;
    this.plot = null;
    this.data = null;
    this.canvas = make("div", { class: "plot", role: "img", "aria-labelledby": this.id });
    this.tip = make("div", { class: "tip", hidden: true });
    this.message = make("p", { class: "plot-empty", "data-kind": "loading" }, "Loading…");
    this.probe = make("i", { hidden: true });
    this.rows = make("tbody");
    this.element = make("article", { class: "card chart" },
      make("header", {},
        make("h3", { id: this.id }, options.title, ...(options.note ? [" ", make("small", {}, options.note)] : [])),
        make("ul", { class: "legend" }, ...options.series.map((series) =>
          make("li", { "data-color": series.color, "data-kind": series.kind }, series.label)))),
      make("div", { class: "plot-box" }, this.canvas, this.tip, this.message, this.probe));
    if (options.table) this.element.append(this.#table());
    new ResizeObserver(() => this.#fit()).observe(this.canvas);
    charts.add(this);
  }

  /** Draw: `times` in seconds since 1970, and a list of numbers (null: none) for each series. */
  async show(times, ...values) {
    this.data = [times, ...values];
    if (this.options.table) this.#fillTable();
    if (!values.some((list) => list.some((value) => value))) {
      this.#say(this.options.empty, "empty");
      this.plot?.setData(this.data);
      return;
    }
    try {
      this.uPlot = await library();
    } catch (error) {
      this.#say(`${error.message} The numbers are in the table${this.options.table ? "" : "s"} all the same.`, "error");
      return;
    }
    this.message.hidden = true;
    if (this.plot) this.plot.setData(this.data);
    else this.redraw();
  }

  /** Say instead of drawing. */
  fail(text) {
    this.#say(text, "error");
  }

  /** Draw afresh, with the colours of now. */
  redraw() {
    if (!this.uPlot || !this.data || !this.canvas.clientWidth) return;
    this.plot?.destroy();
    this.plot = new this.uPlot(this.#setup(), this.data, this.canvas);
  }

  #say(text, kind) {
    this.message.textContent = text;
    this.message.dataset.kind = kind;
    this.message.hidden = false;
    this.tip.hidden = true;
  }

  #setup() {
    const color = (name) => this.#color(name);
    const axis = {
      stroke: color("ink-soft"), font: "12px system-ui, sans-serif", size: 26, gap: 6,
      grid: { show: false }, ticks: { show: false },
    };
    const shown = this.options.axis ?? this.options.value;
    const setup = {
      ...this.#size(),
      padding: [10, 20, 0, 0],
      legend: { show: false },
      cursor: { y: false, drag: { x: false, y: false }, points: { size: 7 } },
      scales: { x: { time: true, range: (_, first, last) => [first - this.#margin(), last + this.#margin()] }, y: { range: (_, low, high) => this.#range(low, high) } },
      axes: [
        { ...axis, space: 64, values: (_, splits) => splits.map((time) => this.options.axisTime(new Date(time * 1000))) },
        {
          ...axis, size: 50, space: 34, values: (_, splits) => splits.map(shown),
          ...(this.options.whole ? { incrs: WHOLE } : {}),
          grid: { show: true, stroke: color("line"), width: 1 },
        },
      ],
      series: [{}, ...this.options.series.map((series) => this.#series(series, color))],
      hooks: { setCursor: [(plot) => this.#point(plot)] },
    };
    if (this.options.utc) setup.tzDate = (stamp) => this.uPlot.tzDate(new Date(stamp * 1000), "Etc/UTC");
    return setup;
  }

  #series({ label, color: name, kind }, color) {
    const stroke = color(name);
    const series = { label, stroke, width: 2, points: { show: false }, spanGaps: false };
    if (kind === "bars") {
      return { ...series, width: 0, fill: stroke, paths: this.uPlot.paths.bars({ size: [0.62, 36], radius: 0.2 }) };
    }
    if (kind === "area") series.fill = stroke.replace(/^rgb\((.*)\)$/, "rgba($1, 0.14)");
    // A lone value between gaps is a point, or it would not be seen.
    series.points = { show: true, size: 6, fill: stroke, filter: (_, place) => lonely(this.data[place]) };
    return series;
  }

  /** Return a colour as a canvas takes it: what a style makes of it now, in light or in dark. */
  #color(name) {
    this.probe.style.color = `var(--${name})`;
    return getComputedStyle(this.probe).color;
  }

  /** Return the room that the first and the last bar need beside their places, in seconds. */
  #margin() {
    return this.options.series.some((series) => series.kind === "bars") ? this.options.stepS * 0.6 : 0;
  }

  #range(low, high) {
    if (this.options.top) return [0, this.options.top];
    const most = Math.max(high ?? 0, -(low ?? 0), 0);
    const top = (high ?? 0) <= 0 && (low ?? 0) < 0 ? 0 : roomy(high ?? 1);
    return [low < 0 ? -roomy(-low) : 0, most ? top : 1];
  }

  #size() {
    return { width: this.canvas.clientWidth, height: this.canvas.clientHeight };
  }

  #fit() {
    if (this.plot) this.plot.setSize(this.#size());
    else this.redraw();
  }

  #point(plot) {
    const place = plot.cursor.idx;
    if (place == null || plot.cursor.left < 0 || !this.message.hidden) {
      this.tip.hidden = true;
      return;
    }
    this.tip.replaceChildren(
      make("strong", {}, this.options.time(new Date(this.data[0][place] * 1000))),
      ...this.options.series.map((series, index) => make("span", { "data-color": series.color },
        `${series.label} `, make("b", {}, this.options.value(this.data[index + 1][place])))));
    this.tip.hidden = false;
    const left = plot.cursor.left + plot.over.offsetLeft;
    const room = this.canvas.clientWidth - this.tip.offsetWidth - 8;
    this.tip.style.left = `${Math.max(4, Math.min(room, left - this.tip.offsetWidth / 2))}px`;
  }

  #table() {
    const heads = ["Time", ...this.options.series.map((series) => series.label)];
    return make("details", {},
      make("summary", {}, "As a table", make("span", { class: "unseen" }, `: ${this.options.title}`)),
      make("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": `${this.options.title}, table` },
        make("table", {}, make("thead", {}, make("tr", {}, ...heads.map((head) => make("th", { scope: "col" }, head)))),
          this.rows)));
  }

  #fillTable() {
    const [times, ...values] = this.data;
    this.rows.replaceChildren(...times.map((time, place) => make("tr", {},
      make("th", { scope: "row" }, this.options.time(new Date(time * 1000))),
      ...values.map((list) => make("td", {}, this.options.value(list[place]))))));
  }
}

/** Return an upper end with a little room, on a number that is easily read. */
function roomy(value) {
  const wanted = value * 1.08;
  const size = 10 ** Math.floor(Math.log10(wanted || 1));
  return Math.max(1e-6, [1, 1.5, 2, 3, 4, 5, 6, 8, 10].map((factor) => factor * size).find((end) => end >= wanted) ?? wanted);
}

/** Return the places of values that have none beside them. */
function lonely(list) {
  const found = [];
  list.forEach((value, place) => {
    if (value != null && list[place - 1] == null && list[place + 1] == null) found.push(place);
  });
  return found;
}
