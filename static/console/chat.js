/** A conversation as a chat: bubbles with ticks, who is there, who is typing. */

import { byId, clock, el, tell } from "./dom.js";

const PAGE = 50;
// Bubbles kept on the page; the rest is history, a button away.
const MOST = 300;
const RANK = { pending: 0, sent: 1, delivered: 2, read: 3 };
const TICKS = { pending: "…", sent: "✓", delivered: "✓✓", read: "✓✓", failed: "!" };

export class Chat {
  #onOpen;
  #realtime = null;
  #conversations = [];
  #current = null;
  #bubbles = new Map(); // message key → {element, ticks, message, status}
  #cursors = new Map(); // person → {delivered, read}
  #typing = new Set();
  #lastSeen = new Map();
  #isAtEnd = true; // whoever reads the newest goes on doing so, whatever grows
  #list = byId("messages");
  #text = byId("text");

  /** onOpen: called when another conversation is shown. */
  constructor(onOpen) {
    this.#onOpen = onOpen;
    byId("conversation").addEventListener("change", (event) => this.#open(event.target.value));
    byId("composer").addEventListener("submit", (event) => {
      event.preventDefault();
      this.#send();
    });
    this.#text.addEventListener("input", () => this.#typed());
    this.#text.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
        event.preventDefault();
        this.#send();
      }
    });
    this.#list.addEventListener("scroll", () => (this.#isAtEnd = this.#isDown()), { passive: true });
    new ResizeObserver(() => this.#isAtEnd && this.#scrollDown()).observe(this.#list);
    byId("auto-read").addEventListener("change", () => this.#sayRead());
    document.addEventListener("visibilitychange", () => this.#sayRead());
  }

  get conversationId() {
    return this.#current?.id ?? null;
  }

  get newest() {
    return [...this.#bubbles.values()].map(({ message }) => message).findLast((message) => message.seq) ?? null;
  }

  /** Show one person's conversations; `realtime` is about to connect. */
  use(realtime) {
    this.#realtime = realtime;
    this.#conversations = [];
    this.#current = null;
    byId("conversation").replaceChildren();
    byId("people").replaceChildren();
    this.#reset("Connecting…");
    const mine = (listener) => (event) => realtime === this.#realtime && listener(event);
    const here = (listener) => mine((event) => event.conversationId === this.#current?.id && listener(event));
    // Receipts and statuses of the time away are not sent again: they are read.
    realtime.on("replay.complete", mine(() => this.#load()));
    realtime.on("conversation.new", mine(() => this.#load()));
    realtime.on("message", here((message) => this.#show(message)));
    realtime.on("message.delivered", here((receipt) => this.#moved(receipt)));
    realtime.on("message.read", here((receipt) => this.#moved(receipt)));
    realtime.on("typing.start", here(({ senderId }) => this.#setTyping(senderId, true)));
    realtime.on("typing.stop", here(({ senderId }) => this.#setTyping(senderId, false)));
    realtime.on("presence.update", mine(({ userId, isOnline, lastSeenAt }) => {
      if (!isOnline) this.#lastSeen.set(userId, lastSeenAt);
      this.#drawPeople();
    })); // prettier-ignore
    realtime.on("state", mine(() => {
      this.#typing.clear(); // who is, will say so again
      this.#drawTyping();
      this.#drawPeople();
      const { state, error } = realtime.status;
      if (state === "closed" && error && !this.#current) this.#reset(`Not connected. ${error.message}`);
    })); // prettier-ignore
  }

  async #load() {
    const realtime = this.#realtime;
    try {
      const { conversations } = await realtime.request("GET", "/api/conversations");
      if (realtime !== this.#realtime) return;
      this.#conversations = conversations;
    } catch (error) {
      tell(`Conversations: ${error.message}`, { isError: true });
      return;
    }
    const options = this.#conversations.map((one) => el("option", { value: one.id }, nameOf(one, realtime.userId)));
    byId("conversation").replaceChildren(...options);
    const wanted = this.#conversations.find(({ id }) => id === this.#current?.id) ?? this.#conversations[0];
    if (!wanted) this.#offerOne();
    else await this.#open(wanted.id);
  }

  async #open(conversationId) {
    const realtime = this.#realtime;
    const isAnother = conversationId !== this.#current?.id;
    this.#current = this.#conversations.find(({ id }) => id === conversationId);
    byId("conversation").value = conversationId;
    if (isAnother) this.#reset("Loading…");
    this.#drawPeople();
    try {
      const page = await realtime.history(conversationId, { limit: PAGE });
      if (realtime !== this.#realtime || conversationId !== this.#current?.id) return;
      const newest = page.messages.at(-1);
      // Later on the client library knows by itself what is missing, more than a page of it too.
      if (newest && !(conversationId in realtime.positions)) realtime.startAfter(conversationId, newest.seq);
      this.#showPage(page);
      if (isAnother) this.#onOpen();
    } catch (error) {
      if (realtime !== this.#realtime || conversationId !== this.#current?.id) return;
      if (isAnother) this.#reset("What was said here can't be had now. It comes when the connection is back.");
      tell(`Messages: ${error.message}`, { isError: true });
    }
    for (const message of realtime.pending) if (message.conversationId === conversationId) this.#showOwn(message);
    this.#scrollDown();
  }

  #showPage({ messages, hasMore }) {
    byId("no-messages")?.remove();
    for (const message of messages) this.#show(message);
    byId("earlier")?.remove();
    if (hasMore) {
      const load = () => this.#loadEarlier(messages[0].seq);
      this.#list.prepend(el("button", { type: "button", id: "earlier", onclick: load }, "Earlier messages"));
    }
    if (this.#bubbles.size === 0) this.#reset("No messages yet. Say something.");
  }

  async #loadEarlier(before) {
    const height = this.#list.scrollHeight;
    try {
      this.#showPage(await this.#realtime.history(this.#current.id, { before, limit: PAGE }));
      this.#list.scrollTop += this.#list.scrollHeight - height;
    } catch (error) {
      tell(`Messages: ${error.message}`, { isError: true });
    }
  }

  #offerOne() {
    const other = byId("other").dataset.userId;
    this.#reset(other ? "No conversations yet." : "No conversations yet. Make one over REST, and it appears here.");
    if (!other) return;
    const start = async () => {
      try {
        await this.#realtime.request("POST", "/api/conversations", { participantIds: [other] });
        await this.#load();
      } catch (error) {
        const isNew = error.code === "UNKNOWN_USER";
        const why = isNew ? "they have not been here yet: open them in another tab first." : error.message;
        tell(`No conversation: ${why}`, { isError: true });
      }
    };
    this.#list.append(el("button", { type: "button", class: "primary", onclick: start }, "Start one"));
  }

  #reset(text) {
    this.#bubbles.clear();
    this.#cursors.clear();
    this.#typing.clear();
    this.#drawTyping();
    this.#list.replaceChildren(el("p", { class: "muted", id: "no-messages" }, text));
  }

  #send() {
    const text = this.#text.value.trim();
    if (!text || !this.#current) return;
    this.#text.value = "";
    this.#grow();
    const key = `${Date.now().toString(36)}-${Math.random().toString(36).slice(2)}`;
    const message = { conversationId: this.#current.id, text, clientMessageId: key };
    this.#showOwn(message);
    this.#scrollDown();
  }

  /** Show a message that is not acked yet, and send it (again: the key makes that harmless). */
  #showOwn(message) {
    this.#put({ ...message, senderId: this.#realtime.userId, timestamp: new Date().toISOString(), status: "pending" });
    const sent = this.#realtime.send(message.conversationId, message.text, message);
    sent.then((ack) => this.#acked(message, ack), (error) => {
      const bubble = this.#bubbles.get(message.clientMessageId);
      if (!bubble || error.code === "CLOSED") return;
      const wasDown = this.#isDown();
      this.#setStatus(bubble, "failed");
      const again = el("button", { type: "button", class: "link", onclick: () => this.#showOwn(message) }, "Try again");
      const edit = el("button", { type: "button", class: "link", onclick: () => this.#takeBack(message) }, "Edit");
      bubble.foot.replaceChildren(`${error.message} `, again, edit);
      if (wasDown) this.#scrollDown();
    });
  }

  /** Put a message that was refused back where it was written; what is being written there stays, after it. */
  #takeBack({ clientMessageId, text }) {
    this.#bubbles.get(clientMessageId).element.remove();
    this.#bubbles.delete(clientMessageId);
    this.#text.value = [text, this.#text.value].filter(Boolean).join("\n");
    this.#grow();
    this.#text.focus();
  }

  /** A reconnect's history may have shown the message already, without the key that we know it by. */
  #acked(message, { messageId, seq, timestamp }) {
    const [pending, shown] = [this.#bubbles.get(message.clientMessageId), this.#bubbles.get(messageId)];
    if (!pending || pending === shown) return;
    if (shown) {
      pending.element.remove();
      this.#bubbles.set(message.clientMessageId, shown);
    } else {
      this.#put({ ...message, messageId, seq, timestamp, senderId: this.#realtime.userId, status: "sent" });
    }
  }

  #show(message) {
    byId("no-messages")?.remove();
    const wasDown = this.#isDown();
    this.#put(message);
    this.#setTyping(message.senderId, false);
    if (wasDown || message.senderId === this.#realtime.userId) this.#scrollDown();
    if (wasDown && this.#list.children.length > MOST) this.#forgetOldest();
    this.#sayRead();
  }

  /** Add a bubble at its place, or bring the one that is there up to date. */
  #put(message) {
    const isOwn = message.senderId === this.#realtime.userId;
    byId("no-messages")?.remove();
    // History has no keys: what is there by its key is found by its place.
    const known = this.#bubbles.get(message.clientMessageId) ?? this.#bubbles.get(message.messageId);
    const bubble = known ?? newBubble(isOwn, this.#handle(message.senderId));
    if (message.messageId) this.#bubbles.set(message.messageId, bubble);
    if (message.clientMessageId) this.#bubbles.set(message.clientMessageId, bubble);
    bubble.message = message;
    bubble.text.textContent = message.text;
    const { timestamp } = message;
    const time = el("time", { dateTime: timestamp, title: timestamp }, clock(timestamp).slice(0, 5));
    bubble.foot.replaceChildren(time, bubble.ticks);
    if (isOwn) this.#setStatus(bubble, this.#statusOf(message));
    this.#place(bubble, message.seq ?? Infinity);
  }

  #place(bubble, order) {
    bubble.element.order = order;
    let after = this.#list.lastElementChild;
    while (after && (after === bubble.element || (after.order ?? -1) > order)) after = after.previousElementSibling;
    const next = after ? after.nextElementSibling : this.#list.firstElementChild;
    if (next !== bubble.element) this.#list.insertBefore(bubble.element, next);
  }

  #forgetOldest() {
    const [oldest] = this.#list.getElementsByClassName("bubble");
    for (const [key, { element }] of this.#bubbles) if (element === oldest) this.#bubbles.delete(key);
    oldest.remove();
  }

  #statusOf(message) {
    const others = this.#current.participants.filter(({ id }) => id !== this.#realtime.userId);
    const least = (kind) => Math.min(...others.map(({ id }) => this.#cursors.get(id)?.[kind] ?? 0));
    let status = message.status ?? "sent";
    if (!message.seq || others.length === 0) return status;
    for (const kind of ["delivered", "read"]) {
      if (message.seq <= least(kind) && RANK[kind] > RANK[status]) status = kind;
    }
    return status;
  }

  #setStatus(bubble, status) {
    bubble.element.dataset.status = status;
    bubble.ticks.textContent = TICKS[status];
    bubble.ticks.title = status;
    bubble.ticks.setAttribute("aria-label", status);
  }

  #moved({ userId, status, seq }) {
    const cursor = this.#cursors.get(userId) ?? { delivered: 0, read: 0 };
    this.#cursors.set(userId, cursor);
    cursor.delivered = Math.max(cursor.delivered, seq);
    if (status === "read") cursor.read = Math.max(cursor.read, seq);
    for (const bubble of new Set(this.#bubbles.values())) {
      const { message } = bubble;
      if (message.seq && message.senderId === this.#realtime.userId) this.#setStatus(bubble, this.#statusOf(message));
    }
  }

  #sayRead() {
    if (!this.#realtime || !this.#current) return;
    if (document.visibilityState !== "visible" || !byId("auto-read").checked) return;
    const isOthers = ({ message }) => message.seq && message.senderId !== this.#realtime.userId;
    const newest = Math.max(0, ...[...this.#bubbles.values()].filter(isOthers).map(({ message }) => message.seq));
    if (newest) this.#realtime.markRead(this.#current.id, newest);
  }

  #typed() {
    this.#grow();
    if (this.#current) this.#realtime.typing(this.#current.id, this.#text.value !== "");
  }

  #grow() {
    this.#text.style.height = "auto";
    this.#text.style.height = `${Math.min(this.#text.scrollHeight + 2, 160)}px`;
  }

  #setTyping(userId, isTyping) {
    if (isTyping) this.#typing.add(userId);
    else this.#typing.delete(userId);
    this.#drawTyping();
  }

  #drawTyping() {
    const names = [...this.#typing].map((id) => this.#handle(id));
    const text = names.length ? `${names.join(", ")} ${names.length > 1 ? "are" : "is"} typing…` : "";
    if (byId("typing").textContent !== text) byId("typing").textContent = text;
  }

  #drawPeople() {
    if (!this.#current) return;
    const isOpen = this.#realtime.status.state === "open";
    const people = this.#current.participants.map(({ id, handle }) => {
      const isMe = id === this.#realtime.userId;
      const isOnline = isOpen && (isMe || this.#realtime.online.has(id));
      const seen = !isOnline && this.#lastSeen.has(id) ? `, last seen ${clock(this.#lastSeen.get(id)).slice(0, 5)}` : "";
      const text = isOpen ? `${isOnline ? "online" : "offline"}${seen}` : "unknown";
      const name = el("b", { dir: "auto" }, isMe ? `${handle} (you)` : handle);
      return el("li", { "data-online": String(isOnline) }, name, ` ${text}`);
    });
    byId("people").replaceChildren(...people);
  }

  #handle(userId) {
    return this.#current?.participants.find(({ id }) => id === userId)?.handle ?? "someone";
  }

  #isDown() {
    return this.#list.scrollTop + this.#list.clientHeight >= this.#list.scrollHeight - 40;
  }

  #scrollDown() {
    this.#list.scrollTop = this.#list.scrollHeight;
  }
}

function newBubble(isOwn, name) {
  const text = el("p", { dir: "auto" });
  const foot = el("div", { class: "foot" });
  const ticks = el("span", { class: "ticks", role: "img" });
  const who = el("b", { class: isOwn ? "hidden" : "", dir: "auto" }, isOwn ? "You" : name);
  const element = el("article", { class: isOwn ? "bubble own" : "bubble" }, who, text, foot);
  if (!isOwn) ticks.hidden = true;
  return { element, text, foot, ticks, message: null };
}

/** The name of a conversation: the others in it. */
function nameOf({ participants, isGroup, bountyId }, userId) {
  const others = participants.filter(({ id }) => id !== userId).map(({ handle }) => handle);
  const about = bountyId ? ", about a bounty" : "";
  return `${others.join(", ") || "nobody else"}${isGroup ? " (group)" : ""}${about}`;
}
