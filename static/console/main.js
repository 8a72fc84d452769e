/** The console: one person, both sockets, and everything that can be tried with them. */

import { BountyEvents, Realtime } from "/static/bountyexpo-realtime.js";
import { Bounties } from "./bounties.js";
import { Chat } from "./chat.js";
import { byId, el, tell } from "./dom.js";
import { Forms } from "./forms.js";
import { Frames } from "./frames.js";
import { Network } from "./network.js";
import { showSnippet } from "./snippet.js";

// Whoever a pasted token is. Not the choice that asks for one: chosen again, that has to be a change.
const PASTED = "pasted";
// Where the demonstration's conversation is not ours, the snippet needs some name for it.
const SOME_CONVERSATION = "c0000000-0000-4000-8000-000000000003";

class Console {
  #setup;
  #network = new Network();
  #frames = new Frames();
  #chat = new Chat(() => this.#forms.draw());
  #bounties;
  #forms;
  #sockets = null; // {messages, events}: the client library's two

  constructor(setup) {
    this.#setup = setup;
    this.#bounties = new Bounties(setup.bountyStatuses);
    const context = () => ({
      conversationId: this.#chat.conversationId,
      message: this.#chat.newest,
      bountyId: this.#bounties.first,
    });
    this.#forms = new Forms(setup.frames, context, (socket, text) => this.#sockets?.[socket].sendFrame(text) ?? false);
    this.#forms.draw();
    byId("connect").addEventListener("click", () => this.#toggleConnection());
    byId("network").addEventListener("click", () => this.#toggleNetwork());
    byId("person").addEventListener("change", (event) => this.#choose(event.target.value));
    byId("start-form").addEventListener("submit", (event) => this.#paste(event));
    byId("start").addEventListener("cancel", (event) => this.#sockets || event.preventDefault());
    this.#offerPeople();
    showSnippet(setup.makesTokens, SOME_CONVERSATION);
    window.addEventListener("hashchange", () => this.#fromAddress());
    this.#fromAddress();
  }

  #offerPeople() {
    const handles = this.#setup.makesTokens ? Object.keys(this.#setup.people) : [];
    const options = handles.map((handle) => el("option", { value: handle }, handle));
    const nobody = el("option", { value: "", hidden: true }, "nobody");
    const pasted = el("option", { value: PASTED, hidden: true }, "by a token");
    byId("person").append(nobody, ...options, pasted, el("option", { value: "token" }, "a token…"));
    byId("start-people").hidden = handles.length === 0;
    byId("start-title").textContent = handles.length ? "Who do you want to be?" : "Connect with a token";
    const buttons = handles.map((handle) =>
      el("button", { type: "button", class: "primary", onclick: () => this.#choose(handle) }, `Be ${handle}`),
    );
    byId("start").querySelector(".choices").replaceChildren(...buttons);
  }

  /** /console#alice is alice. */
  #fromAddress() {
    const handle = location.hash.slice(1);
    if (this.#setup.makesTokens && handle in this.#setup.people) this.#choose(handle);
    else if (!this.#sockets) byId("start").showModal();
  }

  #choose(choice) {
    if (choice === "token") {
      byId("person").value = byId("person").dataset.now ?? "";
      byId("start").showModal();
      byId("token").focus();
    } else if (byId("person").dataset.now !== choice) {
      history.replaceState(null, "", `#${choice}`);
      this.#become(choice, () => this.#fetchToken(choice));
    }
  }

  #paste(event) {
    event.preventDefault();
    const token = byId("token").value.trim();
    const isToken = /^[\w-]+\.[\w-]+\.[\w-]+$/.test(token);
    byId("start-error").textContent = isToken ? "" : "That is no token: it has three parts with dots between.";
    if (!isToken) return;
    byId("token").value = byId("start-error").textContent = "";
    history.replaceState(null, "", location.pathname);
    this.#become(PASTED, () => token);
  }

  async #fetchToken(user) {
    const body = JSON.stringify({ user });
    const answer = await this.#network.fetch("/console/token", { method: "POST", body }).catch(() => {
      throw new Error("The server can't be reached.");
    });
    const { token, message } = await answer.json();
    if (!token) throw new Error(message);
    return token;
  }

  /** Leave whoever this tab was, and connect both sockets as somebody. */
  #become(name, getToken) {
    if (byId("start").open) byId("start").close();
    byId("person").value = byId("person").dataset.now = name;
    document.title = `${name === PASTED ? "by a token" : name} · BountyExpo Realtime console`;
    this.#offerOther(name);
    for (const socket of Object.values(this.#sockets ?? {})) socket.close();
    const { WebSocket, fetch } = this.#network;
    const url = location.origin;
    const messages = new Realtime({ url, getToken, WebSocket, fetch });
    const events = new BountyEvents({ url, WebSocket });
    this.#sockets = { messages, events };
    this.#chat.use(messages);
    this.#bounties.use(messages, events);
    for (const [socket, one] of Object.entries(this.#sockets)) this.#watch(socket, one);
    messages.on("replay.complete", () => this.#bounties.load());
    messages.connect();
    events.connect();
  }

  #watch(socket, one) {
    const isMine = () => this.#sockets?.[socket] === one;
    one.on("traffic", (traffic) => this.#frames.add(socket, traffic));
    one.on("state", (status) => {
      if (!isMine()) return;
      const { text, isError } = describe(status);
      byId(`${socket}-state`).dataset.state = status.state;
      byId(`${socket}-state`).lastChild.textContent = status.state;
      byId(`${socket}-state`).title = text;
      this.#frames.note(socket, text, { isError });
      byId("connect").textContent = this.#isClosed() ? "Connect" : "Disconnect";
      if (status.error && status.state === "closed") this.#gaveUp(socket, status.error);
    });
    // What became of a message stands in the chat.
    one.on("failed", ({ error, message }) => message || tell(error.message, { isError: true }));
  }

  #gaveUp(socket, error) {
    if (socket !== "messages" || byId("person").value !== PASTED) {
      tell(`${socket}: ${error.message}`, { isError: true });
      return;
    }
    byId("start-error").textContent = error.message;
    byId("start").showModal();
    byId("token").focus();
  }

  #offerOther(name) {
    const other = Object.keys(this.#setup.people).find((handle) => handle !== name);
    const link = byId("other");
    link.hidden = !this.#setup.makesTokens || !(name in this.#setup.people);
    if (link.hidden) return delete link.dataset.userId;
    link.href = `/console#${other}`;
    link.dataset.userId = this.#setup.people[other];
    link.textContent = `Open ${other} in another tab`;
  }

  #isClosed() {
    return Object.values(this.#sockets ?? {}).every(({ status }) => ["closed", "idle"].includes(status.state));
  }

  #toggleConnection() {
    if (!this.#sockets) return byId("start").showModal();
    const wasClosed = this.#isClosed();
    for (const socket of Object.values(this.#sockets)) wasClosed ? socket.connect() : socket.close();
  }

  #toggleNetwork() {
    const button = byId("network");
    if (this.#network.isDown) {
      this.#network.restore();
      for (const socket of Object.values(this.#sockets ?? {})) socket.wake();
    } else {
      this.#network.cut();
    }
    button.setAttribute("aria-pressed", String(this.#network.isDown));
    button.textContent = this.#network.isDown ? "Restore the network" : "Kill the network";
    document.body.classList.toggle("offline", this.#network.isDown);
  }
}

/** Say how a connection is doing. */
function describe({ state, code, error, retryInMs, attempt }) {
  const why = [code && `code ${code}`, error?.message].filter(Boolean).join(", ");
  if (state === "open") return { text: "open" };
  if (state === "connecting") return { text: attempt ? `connecting, attempt ${attempt + 1}` : "connecting" };
  if (state === "waiting") {
    return { text: `lost, again in ${(retryInMs / 1000).toFixed(1)} s${why && ` (${why})`}`, isError: true };
  }
  return { text: `closed${why && ` (${why})`}`, isError: Boolean(error) };
}

try {
  const answer = await fetch("/console/schema.json");
  new Console(await answer.json());
} catch (error) {
  tell(`The console could not start: ${error.message}`, { isError: true });
  throw error;
}
