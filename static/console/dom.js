/** Making elements. Text is only ever set as text: nothing that came over the wire is read as markup. */

/** Return the element of the page with this id. */
export const byId = (id) => document.getElementById(id);

/** Return a new element: properties by name (`on…` are listeners, `aria-…` and `data-…` attributes), then children. */
export function el(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name in element && !name.includes("-") && name !== "list") element[name] = value;
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

/** Put text on the clipboard; where that is not allowed, select it. */
export async function copy(text, source) {
  try {
    await navigator.clipboard.writeText(text);
    tell("Copied.");
  } catch {
    getSelection().selectAllChildren(source);
    tell("Selected: press Ctrl+C to copy.");
  }
}

let hiding;

/** Say something to the person, in sight and to screen readers. */
export function tell(text, { isError = false } = {}) {
  const notice = byId("notice");
  notice.textContent = text;
  notice.dataset.kind = isError ? "error" : "note";
  clearTimeout(hiding);
  hiding = setTimeout(() => (notice.textContent = ""), isError ? 8_000 : 3_000);
}

/** 09:41:07, with milliseconds where wanted. */
export function clock(at, { withMilliseconds = false } = {}) {
  const date = new Date(at);
  const two = (number) => String(number).padStart(2, "0");
  const time = `${two(date.getHours())}:${two(date.getMinutes())}:${two(date.getSeconds())}`;
  return withMilliseconds ? `${time}.${String(date.getMilliseconds()).padStart(3, "0")}` : time;
}
