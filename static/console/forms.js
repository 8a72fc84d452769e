/** A form for each frame that a client may send, made from the server's schema of them. */

import { byId, el, tell } from "./dom.js";

export class Forms {
  #frames = {};
  #context;
  #send;

  /**
   * frames: {socket: {type: JSON Schema}}. context(): {conversationId, message, bountyId, token} to fill in.
   * send(socket, text): whether it was sent.
   */
  constructor(frames, context, send) {
    this.#frames = frames;
    this.#context = context;
    this.#send = send;
    for (const [socket, types] of Object.entries(frames)) {
      const options = Object.keys(types).map((type) => el("option", { value: `${socket}:${type}` }, type));
      byId("frame-type").append(el("optgroup", { label: `${socket} socket` }, ...options));
    }
    byId("frame-type").value = "messages:message.send";
    byId("frame-type").addEventListener("change", () => this.draw());
    byId("fields").addEventListener("input", () => this.#write());
    byId("frame-form").addEventListener("submit", (event) => {
      event.preventDefault();
      this.#submit();
    });
  }

  /** Make the form of the chosen type, filled with what is at hand. */
  draw() {
    const [, , schema] = this.#chosen();
    byId("frame-about").textContent = schema.description ?? "";
    const required = new Set(schema.required ?? []);
    const names = Object.keys(schema.properties).filter((name) => name !== "type");
    const field = (name) => this.#field(name, schema.properties[name], required.has(name));
    const fields = (wanted) => names.filter((name) => required.has(name) === wanted).map(field);
    const more = fields(false);
    // Where nothing has to be there, what may be is the form.
    const rest = more.length < names.length ? el("details", {}, el("summary", {}, "Optional fields"), ...more) : null;
    byId("fields").replaceChildren(...fields(true), ...(rest && more.length ? [rest] : more));
    this.#write();
  }

  #chosen() {
    const [socket, type] = byId("frame-type").value.split(/:(.*)/s);
    return [socket, type, this.#frames[socket][type]];
  }

  #field(name, schema, isRequired) {
    const kind = kindOf(schema);
    const id = `field-${name}`;
    const value = this.#suggestion(name, isRequired);
    const label = el("label", { htmlFor: id }, name);
    const shared = { id, name, "data-kind": kind, autocomplete: "off", spellcheck: false };
    if (kind === "boolean") {
      return el("div", { class: "field row" }, el("input", { ...shared, type: "checkbox", checked: true }), label);
    }
    const isLong = kind === "array" || kind === "object" || name === "text";
    const input = isLong ? el("textarea", { ...shared, rows: 2 }) : el("input", { ...shared, type: "text" });
    input.value = value;
    return el("div", { class: "field" }, label, input);
  }

  #suggestion(name, isRequired) {
    const { conversationId, message, bountyId } = this.#context();
    const values = {
      conversationId,
      bountyIds: bountyId,
      text: "Is the cat back?",
      clientMessageId: `try-${Math.random().toString(36).slice(2, 8)}`,
      seq: message?.seq,
      ts: Date.now(),
      conversations: JSON.stringify({ [conversationId ?? ""]: Math.max(0, (message?.seq ?? 0) - 3) }),
    };
    return isRequired || ["seq", "ts"].includes(name) ? String(values[name] ?? "") : "";
  }

  /** Write the frame that the fields make. */
  #write() {
    const [, type] = this.#chosen();
    const frame = { type };
    for (const input of byId("fields").querySelectorAll("[data-kind]")) {
      const value = valueOf(input);
      if (value !== undefined) frame[input.name] = value;
    }
    byId("frame-text").value = JSON.stringify(frame, null, 2);
  }

  #submit() {
    const [socket] = this.#chosen();
    const edited = byId("frame-text").value;
    let text = edited;
    try {
      text = JSON.stringify(JSON.parse(edited)); // without our line breaks; what is no JSON goes out as it is
    } catch {
      // Meant so.
    }
    if (this.#send(socket, text)) tell(`Sent on the ${socket} socket.`);
    else tell(`The ${socket} socket is not open: nothing was sent.`, { isError: true });
  }
}

/** What a field takes: "boolean", "number", "array", "object", "any" or "string". */
function kindOf(schema) {
  const kinds = (schema.anyOf ?? [schema]).map(({ type }) => type).filter((type) => type && type !== "null");
  const has = (...names) => kinds.some((kind) => names.includes(kind));
  if (has("string") && has("integer", "number")) return "any";
  if (has("integer", "number")) return "number";
  return kinds[0] ?? "string";
}

/** What was put into a field, as JSON has it; undefined where it was left empty. What does not fit goes as it is. */
function valueOf(input) {
  const { kind } = input.dataset;
  if (kind === "boolean") return input.checked;
  const text = input.value;
  if (text === "") return kind === "array" ? [] : undefined;
  if (kind === "array") return text.split(/[\s,]+/).filter(Boolean);
  if (kind === "string") return text;
  try {
    return JSON.parse(text);
  } catch {
    return text;
  }
}
