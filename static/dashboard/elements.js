// Making elements. Text is always text: nothing here, or anywhere else on the page, parses HTML.

/** Return an element with attributes (`class`, `hidden`, …) and children, strings among them. */
export function make(name, attributes = {}, ...children) {
  const element = name === "svg" || SVG_PARTS.has(name)
    ? document.createElementNS("http://www.w3.org/2000/svg", name) : document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value === true) element.setAttribute(key, "");
    else if (value !== false && value != null) element.setAttribute(key, value);
  }
  element.append(...children);
  return element;
}

const SVG_PARTS = new Set(["polyline", "polygon"]);

/** Return the element with an id. */
export const at = (id) => document.getElementById(id);

/** Set an element's text, only where it differs: a screen reader hears of every change. */
export function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}
