// Numbers and times as people read them. Pure functions.

const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const short = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 });

export const NOTHING = "–";

/** Return a count: 1,234, and from a million on 1.2M. */
export function count(value) {
  return value == null ? NOTHING : Math.abs(value) >= 1e6 ? short.format(value) : whole.format(value);
}

/** Return a count in as little room as an axis has: 1.2K. */
export function compact(value) {
  return value == null ? NOTHING : short.format(value);
}

/** Return milliseconds with the digits that matter: 0.84, 12.3, 640 ms, 2.4 s. */
export function millis(value) {
  if (value == null) return NOTHING;
  if (value >= 1000) return `${(value / 1000).toFixed(1)} s`;
  return `${value >= 100 ? value.toFixed(0) : value >= 10 ? value.toFixed(1) : value.toFixed(2)} ms`;
}

/** Return milliseconds as an axis has room for: 0.5 ms, 150 ms, 2 s. */
export function millisAxis(value) {
  return value >= 1000 ? `${trim(value / 1000)} s` : `${trim(value)} ms`;
}

/** Return seconds in the unit that fits: 0.8 s, 45 s, 12 min, 3.5 h, 2 d. */
export function seconds(value) {
  if (value == null) return NOTHING;
  const units = [[86400, "d"], [3600, "h"], [60, "min"]];
  for (const [size, unit] of units) {
    if (value >= size) return `${trim(value / size)} ${unit}`;
  }
  return `${trim(value)} s`;
}

/** Return a share of 1 in per cent. */
export function share(value) {
  return value == null ? NOTHING : `${value > 0.995 && value < 1 ? "99.9" : (value * 100).toFixed(value < 0.1 && value > 0 ? 1 : 0)} %`;
}

/** Return bytes: 512 B, 1.5 KB, 3 MB. */
export function bytes(value) {
  if (value == null) return NOTHING;
  if (value < 1024) return `${value} B`;
  return value < 1024 * 1024 ? `${trim(value / 1024)} KB` : `${trim(value / 1024 / 1024)} MB`;
}

function trim(value) {
  return String(value >= 10 ? Math.round(value) : Math.round(value * 10) / 10);
}

/** Return a time of day, over 24 hours: 14:05, with seconds 14:05:09. */
export function time(date, withSeconds = false) {
  return date.toLocaleTimeString(undefined, {
    hour: "2-digit", minute: "2-digit", second: withSeconds ? "2-digit" : undefined, hourCycle: "h23",
  });
}

/** Return a step's time as an axis has room for: 14:00, 3 Nov. */
export function stepAxis(date, stepS) {
  return stepS >= 86400
    ? date.toLocaleDateString(undefined, { timeZone: "UTC", day: "numeric", month: "short" })
    : time(date);
}

/** Return a step's time: a minute or an hour in the reader's time; a day as what it is, UTC's. */
export function stepTime(date, stepS) {
  if (stepS >= 86400) {
    return date.toLocaleDateString(undefined, { timeZone: "UTC", weekday: "short", day: "numeric", month: "short" });
  }
  return time(date);
}
