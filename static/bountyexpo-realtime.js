/**
 * Client of BountyExpo Realtime, for browsers, React Native and Node.js. No dependencies; types beside it in
 * bountyexpo-realtime.d.ts, use in docs/client-library.md.
 *
 *   Realtime      messaging: what is sent arrives once, what arrives is handed over once and in order
 *   BountyEvents  the public stream of bounty changes, resumed where it broke off
 *
 * Below them: Emitter (listeners), Link (one WebSocket that comes back), Outbox (messages until they are acked),
 * Receipts (cursors until they are confirmed), Catalogue (how far each conversation has been received).
 */

const SUBPROTOCOL = "bountyexpo.v1";

// Full jitter: a random wait up to a bound that doubles with each attempt.
const BACKOFF_MS = 500;
const BACKOFF_MOST_MS = 30_000;
// A connection that lived this long starts the backoff afresh; one that dies at once does not.
const STABLE_MS = 5_000;
// How long a handshake with its greeting, and the answer to a ping, may take.
const GREETING_MS = 15_000;
const PONG_MS = 10_000;
// How long the app may take to get a token: a refresh over a poor line takes its time.
const TOKEN_MS = 30_000;
// How long after an error its close may take.
const CLOSE_MS = 100;
// What has not been answered after this long on an open socket is asked again; keys make that harmless.
const ANSWER_MS = 15_000;
// A token that is refused this many times in a row, fresh each time, is no matter of freshness.
const MOST_REFUSALS = 3;
// Messages under way at once, each in a conversation of its own. A limit that was met makes it one, an ack one more.
const UNDER_WAY_MOST = 10;
const REFRESH_AGAIN_MS = 10_000;
// Receipts are gathered for this long, and sent a few at a time: the server takes 20 frames a second.
const RECEIPTS_MS = 250;
const RECEIPTS_AT_ONCE = 5;
// The server merges starts that come within 3 s.
const TYPING_AGAIN_MS = 3_000;
const SYNC_MOST = 500;
const TOPICS_MOST = 200;
const ITERATOR_MOST = 1_000;
const KEY_CHARS_MOST = 64;

// What to do after a close code; for any other: come back, with backoff.
const STOP = "stop";
const FRESH_TOKEN = "fresh token";
const AT_ONCE = "at once";
const AFTER_CLOSE = {
  1002: STOP, // frames that the protocol forbids
  1007: STOP,
  4400: STOP, // too many bad frames
  4401: FRESH_TOKEN,
  4408: AT_ONCE, // heartbeat missed or too slow: come back and sync
};
const ABNORMAL = 1006;

// Errors that the same message would meet again, however often it is sent.
const FINAL_ERRORS = new Set([
  "NOT_PARTICIPANT", "INVALID_TEXT", "INVALID_FRAME", "INVALID_JSON", "UNKNOWN_MESSAGE", "UNKNOWN_TYPE", "FORBIDDEN",
]);

/** What went wrong: `code` is the server's, or one of CLOSED, OTHER_USER, TOO_LARGE, NETWORK. */
export class RealtimeError extends Error {
  constructor(code, message, { retryAfterMs, closeCode, status } = {}) {
    super(message);
    this.name = "RealtimeError";
    this.code = code;
    this.retryAfterMs = retryAfterMs;
    this.closeCode = closeCode;
    this.status = status;
  }
}

class Emitter {
  #listeners = new Map();

  /** Call `listener` with each event of a type; returns a function that ends it. */
  on(type, listener) {
    const listeners = this.#listeners.get(type) ?? new Set();
    this.#listeners.set(type, listeners.add(listener));
    return () => listeners.delete(listener);
  }

  /** Return a promise of the next event of a type. */
  once(type) {
    return new Promise((resolve) => {
      const off = this.on(type, (value) => {
        off();
        resolve(value);
      });
    });
  }

  emit(type, value) {
    for (const listener of [...(this.#listeners.get(type) ?? [])]) {
      try {
        listener(value);
      } catch (error) {
        // A listener's fault is its own: the others, and what we have to do next, go on.
        setTimeout(() => {
          throw error;
        });
      }
    }
  }
}

/**
 * One WebSocket that comes back by itself. Emits `state`, `traffic`, `frame` (all that is received, in order), and
 * `lost` with the close code. It is `open` from the server's greeting on.
 */
class Link extends Emitter {
  #options;
  #socket = null;
  #timer = null; // the one thing that is waited for: a greeting, silence, a pong, the next attempt
  #attempt = 0;
  #openedAt = 0;
  #interval = 25_000;
  #isPinged = false;
  #comeBackMs = null;
  #refused = null;
  #refusals = 0;
  #life = 0; // what was begun in an earlier life is ignored
  token = null;
  status = { state: "idle" };
  wake = () => this.#wake();

  /** options: address() of the socket, getToken (null: none needed), greeting (its type), WebSocket. */
  constructor(options) {
    super();
    this.#options = options;
  }

  get isOpen() {
    return this.#socket !== null && this.status.state === "open";
  }

  start() {
    if (this.status.state === "idle" || this.status.state === "closed") {
      this.#attempt = this.#refusals = 0;
      this.#refused = null;
      globalThis.addEventListener?.("online", this.wake);
      this.#open();
    }
  }

  stop() {
    this.#detach();
    this.#become({ state: "closed", code: 1000 });
  }

  /** Send a frame (or text as it is); false when the socket is not open. */
  send(frame) {
    if (!this.isOpen) return false;
    const text = typeof frame === "string" ? frame : JSON.stringify(frame);
    this.#socket.send(text);
    this.emit("traffic", { direction: "out", text, at: Date.now() });
    return true;
  }

  /** The network may be back: do not wait any longer; where a connection seems open, see whether it is. */
  #wake() {
    if (this.status.state === "waiting") this.#open();
    else if (this.isOpen && !this.#isPinged) this.#onSilence();
  }

  async #open() {
    const life = ++this.#life;
    clearTimeout(this.#timer);
    this.#become({ state: "connecting", attempt: this.#attempt });
    const { getToken } = this.#options;
    let token = null;
    try {
      if (getToken) token = await askFor(getToken, { refresh: this.#refused !== null });
    } catch (error) {
      if (life === this.#life) this.#comeBack({ error }); // the app could not get one just now
      return;
    }
    if (life !== this.#life) return;
    const error = getToken && this.#faultOf(token);
    if (error) this.#become({ state: "closed", error });
    else this.#dial(token);
  }

  #faultOf(token) {
    if (!token) return new RealtimeError("AUTH_REQUIRED", "getToken gave no token.");
    return token === this.#refused ? new RealtimeError("AUTH_FAILED", "The server refused this token.") : null;
  }

  #dial(token) {
    this.token = token;
    const protocols = token ? [SUBPROTOCOL, `bearer.${token}`] : [SUBPROTOCOL];
    let socket;
    try {
      socket = new this.#options.WebSocket(this.#options.address(), protocols);
    } catch (error) {
      this.#become({ state: "closed", error }); // an address or a token that is none: the next would be no better
      return;
    }
    this.#socket = socket;
    this.#isPinged = true; // nothing to ask yet: silence now means that it failed
    this.#expectWithin(GREETING_MS);
    socket.onmessage = ({ data }) => this.#receive(data);
    // A close follows, except in some versions of Node.js.
    socket.onerror = () => setTimeout(() => this.#socket === socket && this.#lose(ABNORMAL), CLOSE_MS);
    socket.onclose = ({ code = ABNORMAL }) => this.#lose(code); // some versions of React Native give none
  }

  #receive(text) {
    this.#isPinged = false;
    this.#expectWithin(this.#interval);
    let frame = null;
    try {
      frame = JSON.parse(text);
    } catch {
      // Not of our server; told below, for logs.
    }
    const life = this.#life; // a listener may close
    this.emit("traffic", { direction: "in", text, frame, at: Date.now() });
    if (frame?.type === this.#options.greeting && life === this.#life) this.#greeted(frame);
    if (frame?.type === "server.draining") this.#comeBackMs = frame.reconnectAfterMs;
    if (frame?.type && life === this.#life) this.emit("frame", frame);
  }

  #greeted(frame) {
    this.#interval = frame.heartbeatIntervalMs ?? this.#interval;
    this.#openedAt = monotonic();
    this.#refusals = 0;
    this.#refused = null;
    this.#become({ state: "open", connectionId: frame.connectionId });
  }

  #expectWithin(ms) {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#onSilence(), ms);
  }

  #onSilence() {
    if (this.#isPinged) {
      this.#lose(ABNORMAL); // a dead network reports no close: do not wait for one
    } else {
      this.#isPinged = true;
      this.send({ type: "ping", ts: Date.now() });
      this.#expectWithin(PONG_MS);
    }
  }

  #lose(code) {
    const wasStable = this.isOpen && monotonic() - this.#openedAt >= STABLE_MS;
    this.#detach();
    if (wasStable) this.#attempt = 0;
    const rule = AFTER_CLOSE[code];
    if (rule === FRESH_TOKEN) {
      this.#refused = this.token;
      this.#refusals += 1;
    }
    // Told before anything is told about coming back: what was under way on this socket is so no more.
    const life = this.#life;
    this.emit("lost", code);
    if (life !== this.#life) return; // a listener closed
    if (rule === STOP || this.#refusals >= MOST_REFUSALS) {
      const reason = rule === STOP ? "BAD_FRAMES" : "AUTH_FAILED";
      const error = new RealtimeError(reason, `The server closed with ${code}.`, { closeCode: code });
      this.#become({ state: "closed", code, error });
    } else {
      // A line that is too slow for what it is sent at once stays so: only the first time is for nothing to wait.
      const atOnce = (rule === AT_ONCE && wasStable) || (rule === FRESH_TOKEN && this.#refusals === 1);
      this.#comeBack({ code, atOnce });
    }
  }

  #comeBack({ code, error, atOnce = false }) {
    const most = Math.min(BACKOFF_MOST_MS, BACKOFF_MS * 2 ** this.#attempt);
    this.#attempt += 1;
    const retryInMs = Math.round(this.#comeBackMs ?? Math.random() * (atOnce ? BACKOFF_MS : most));
    this.#comeBackMs = null;
    this.#timer = setTimeout(() => this.#open(), retryInMs);
    this.#become({ state: "waiting", code, error, retryInMs, attempt: this.#attempt });
  }

  #detach() {
    this.#life += 1;
    clearTimeout(this.#timer);
    const socket = this.#socket;
    this.#socket = null;
    if (socket) {
      socket.onmessage = socket.onclose = null;
      socket.close();
    }
  }

  #become(status) {
    this.status = status;
    if (status.state === "closed") globalThis.removeEventListener?.("online", this.wake);
    this.emit("state", status);
  }
}

/**
 * Messages from `add` to their ack, in order; one a conversation is under way, so that none overtakes one that has to
 * be sent again. `transmit(entry)` sends one and says whether it could.
 */
class Outbox {
  #entries = new Map(); // clientMessageId → entry
  #storage;
  #key;
  #transmit;
  #isLoaded = false;
  #userId = null;
  #room = UNDER_WAY_MOST;
  #pause; // the server asked for patience
  #isSaving = false;
  #isStale = false; // the storage has not got the newest

  constructor({ storage, key, transmit, onError }) {
    this.#storage = storage;
    this.#key = key;
    this.#transmit = transmit;
    this.onError = onError;
    this.#load();
  }

  get messages() {
    return [...this.#entries.values()].map(({ message }) => message);
  }

  add(message) {
    const known = this.#entries.get(message.clientMessageId);
    if (known) return known.promise;
    const entry = newEntry(message, this.#userId);
    this.#entries.set(message.clientMessageId, entry);
    this.#save();
    this.flush();
    return entry.promise;
  }

  /** Send what may be sent now. */
  flush() {
    if (!this.#isLoaded || this.#pause) return;
    const busy = new Set();
    for (const entry of this.#entries.values()) {
      const { conversationId } = entry.message;
      if (busy.has(conversationId)) continue;
      if (busy.size === this.#room) return;
      busy.add(conversationId);
      if (!entry.timer && this.#transmit(entry.message)) this.#again(entry, ANSWER_MS);
    }
  }

  /** The server has stored it; returns the message, or null where it was none of ours. */
  acked(ack) {
    const entry = this.#take(ack.clientMessageId);
    this.#room = Math.min(UNDER_WAY_MOST, this.#room + 1);
    entry?.resolve(ack);
    this.flush();
    return entry?.message ?? null;
  }

  /** The server answered with an error. */
  refused(error) {
    const entry = this.#entries.get(error.clientMessageId);
    if (!entry) return;
    if (FINAL_ERRORS.has(error.code)) this.#fail(entry, asError(error));
    else if (!error.retryAfterMs) this.#again(entry, 1_000);
    else {
      // A rate is the person's and a store everybody's: the others would be told the same.
      entry.timer = clearTimeout(entry.timer);
      this.#wait(error.retryAfterMs);
    }
  }

  /** Something was not acted on, and nobody says what: all that is under way is sent again after a while. */
  unsure(afterMs) {
    this.lost();
    this.#wait(afterMs);
  }

  /** The socket is gone, and with it the answers. */
  lost() {
    this.#pause = clearTimeout(this.#pause);
    for (const entry of this.#entries.values()) entry.timer = clearTimeout(entry.timer);
  }

  /** The server found a frame too large; of those under way it can only be the largest. */
  tooLarge() {
    const size = (entry) => JSON.stringify(entry.message).length;
    const underWay = [...this.#entries.values()].filter((entry) => entry.timer);
    const [largest] = underWay.sort((one, other) => size(other) - size(one));
    if (largest) this.#fail(largest, new RealtimeError("TOO_LARGE", "The message is too large.", { closeCode: 1009 }));
  }

  /** Who is connected now. What another person wrote is not sent. */
  belongTo(userId) {
    this.#userId = userId;
    for (const entry of [...this.#entries.values()]) {
      entry.userId ??= userId;
      if (entry.userId === userId) continue;
      this.#fail(entry, new RealtimeError("OTHER_USER", "Another person is connected now; this message was not sent."));
    }
    this.#save();
  }

  /** Nobody will send any more. What a storage holds stays there, for the next who uses it. */
  close() {
    this.lost();
    const error = new RealtimeError("CLOSED", "The connection was closed before the message was acked.");
    for (const entry of this.#entries.values()) entry.reject(error);
    if (!this.#storage) this.#entries.clear();
  }

  #again(entry, ms) {
    clearTimeout(entry.timer);
    entry.timer = setTimeout(() => {
      entry.timer = undefined;
      this.flush();
    }, ms);
  }

  #wait(ms) {
    this.#room = 1;
    clearTimeout(this.#pause);
    this.#pause = setTimeout(() => {
      this.#pause = undefined;
      this.flush();
    }, ms);
  }

  #fail(entry, error) {
    this.#take(entry.message.clientMessageId);
    entry.reject(error);
    this.onError(error, entry.message);
    this.flush();
  }

  #take(key) {
    const entry = this.#entries.get(key);
    if (entry) {
      clearTimeout(entry.timer);
      this.#entries.delete(key);
      this.#save();
    }
    return entry;
  }

  async #load() {
    let text = null;
    await null; // an error finds listeners
    try {
      text = await this.#storage?.getItem(this.#key);
    } catch (error) {
      this.#storage = null; // what could not be read is not written over
      this.onError(error, null);
    }
    try {
      const saved = JSON.parse(text ?? "[]");
      const earlier = saved.map(({ message, userId }) => [message.clientMessageId, newEntry(message, userId)]);
      this.#entries = new Map([...earlier, ...this.#entries]);
    } catch (error) {
      this.onError(error, null);
    }
    this.#isLoaded = true;
    if (this.#userId) this.belongTo(this.#userId);
    else this.#save();
    this.flush();
  }

  /** One write at a time, each of what is there by then: an older state is never written over a newer one. */
  async #save() {
    this.#isStale = true;
    if (!this.#storage || !this.#isLoaded || this.#isSaving) return;
    this.#isSaving = true;
    try {
      while (this.#isStale) {
        this.#isStale = false;
        const entries = [...this.#entries.values()].map(({ message, userId }) => ({ message, userId }));
        await this.#storage.setItem(this.#key, JSON.stringify(entries));
      }
    } catch (error) {
      this.onError(error, null);
    }
    this.#isSaving = false;
  }
}

/** How far the user has received and read, per conversation, until the server has confirmed it. */
class Receipts {
  #cursors = new Map(); // conversation → {delivered, read}: what we want, what was sent, what is confirmed
  #send;
  #timer;

  constructor(send) {
    this.#send = send;
  }

  /** kind: "delivered" or "read". */
  mark(kind, conversationId, seq) {
    checkSeq(seq);
    const cursor = this.#cursors.get(conversationId) ?? { delivered: newCursor(), read: newCursor() };
    this.#cursors.set(conversationId, cursor);
    cursor[kind].wanted = Math.max(cursor[kind].wanted, seq);
    this.#later();
  }

  /** Our own cursor moved. */
  confirmed({ status, conversationId, seq }) {
    const cursor = this.#cursors.get(conversationId);
    if (!cursor) return;
    if (status === "read") cursor.read.confirmed = Math.max(cursor.read.confirmed, seq);
    cursor.delivered.confirmed = Math.max(cursor.delivered.confirmed, seq);
  }

  /** What was sent and not confirmed may have been lost: send it again. */
  again(afterMs = RECEIPTS_MS) {
    for (const cursor of this.#cursors.values()) {
      cursor.read.sent = cursor.read.confirmed;
      cursor.delivered.sent = cursor.delivered.confirmed;
    }
    this.#stop();
    this.#later(afterMs);
  }

  forget(conversationId) {
    this.#cursors.delete(conversationId);
  }

  forgetAll() {
    this.#cursors.clear();
  }

  /** Send what is gathered, as long as there is a socket. */
  close() {
    this.#flush();
    this.#stop();
  }

  #stop() {
    this.#timer = clearTimeout(this.#timer);
  }

  #later(ms = RECEIPTS_MS) {
    this.#timer ??= setTimeout(() => {
      this.#timer = undefined;
      if (this.#flush()) this.#later();
    }, ms);
  }

  /** Send some; true while there are more. */
  #flush() {
    let left = RECEIPTS_AT_ONCE;
    for (const [conversationId, { delivered, read }] of this.#cursors) {
      for (const [kind, cursor] of [["read", read], ["delivered", delivered]]) {
        if (cursor.wanted <= cursor.sent) continue;
        if (left === 0) return true;
        if (!this.#send({ type: `message.${kind}`, conversationId, seq: cursor.wanted })) return false;
        left -= 1;
        cursor.sent = cursor.wanted;
        if (kind === "read") delivered.sent = Math.max(delivered.sent, cursor.wanted); // read moves both
      }
    }
    return false;
  }
}

/**
 * How far each conversation has been received without a gap. What lies past a gap is not kept: `sync` brings all of it
 * again, in order. One sync is under way at a time.
 */
class Catalogue {
  #positions = new Map();
  #wanted = new Set();
  #asked = null; // the conversations of the sync under way
  #timer;
  #send;

  constructor(positions, send) {
    this.#positions = new Map(Object.entries(positions));
    this.#send = send;
  }

  get positions() {
    return Object.fromEntries(this.#positions);
  }

  /** The app has everything up to `seq` from elsewhere. */
  raise(conversationId, seq) {
    checkSeq(seq);
    if (seq > (this.#positions.get(conversationId) ?? -1)) this.#positions.set(conversationId, seq);
  }

  /** Whether a message is the next one (true); one seen before, or past a gap, is not. */
  takes({ conversationId, seq, replayed }) {
    const position = this.#positions.get(conversationId);
    if (position !== undefined && seq <= position) return false;
    // What a sync brings is all there is: where it leaves something out, there is nothing to wait for.
    const isAnswer = replayed && this.#asked?.has(conversationId);
    if (position !== undefined && seq > position + 1 && !isAnswer) {
      if (!this.#asked?.has(conversationId)) this.want([conversationId]);
      return false;
    }
    this.#positions.set(conversationId, seq);
    return true;
  }

  /** Ask for what is newer in these conversations, as far as any of it is known. */
  want(conversationIds) {
    for (const id of conversationIds) if (this.#positions.has(id)) this.#wanted.add(id);
    if (!this.#asked && this.#wanted.size > 0) this.#ask();
  }

  completed({ truncated }) {
    this.#settle();
    this.want(truncated);
  }

  /** The server did not do it. */
  failed({ code, conversationId, retryAfterMs }) {
    if (!this.#asked) return;
    const isFinal = FINAL_ERRORS.has(code);
    const again = [...this.#asked].filter((id) => !isFinal || id !== conversationId);
    const isHopeless = isFinal && again.length === this.#asked.size;
    this.#settle();
    if (isHopeless) return;
    for (const id of again) this.#wanted.add(id);
    this.#timer = setTimeout(() => this.want([]), retryAfterMs ?? 1_000);
  }

  /** The socket is gone; the next one asks afresh. */
  lost() {
    this.#settle();
    this.#wanted.clear();
  }

  forget() {
    this.lost();
    this.#positions.clear();
  }

  #ask() {
    const ids = [...this.#wanted].slice(0, SYNC_MOST);
    const conversations = Object.fromEntries(ids.map((id) => [id, this.#positions.get(id)]));
    if (!this.#send({ type: "sync", conversations })) return;
    for (const id of ids) this.#wanted.delete(id);
    this.#asked = new Set(ids);
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.failed({}), ANSWER_MS);
  }

  #settle() {
    clearTimeout(this.#timer);
    this.#asked = null;
  }
}

/** Messaging for one person. Every method and event is described in bountyexpo-realtime.d.ts. */
export class Realtime extends Emitter {
  #options;
  #base;
  #link;
  #outbox;
  #receipts;
  #catalogue;
  #isCaughtUp = false; // the offline queue of this connection has been received
  #left = new Set();
  #typingAt = new Map();
  #refreshing;
  userId = null;
  connectionId = null;
  conversationIds = [];
  online = new Set();

  constructor(options) {
    super();
    this.#options = { autoDelivered: true, positions: {}, storageKey: "bountyexpo-realtime.outbox", ...options };
    if (typeof this.#options.getToken !== "function") throw new TypeError("getToken has to be a function.");
    this.#base = baseOf(this.#options.url);
    this.#link = new Link({
      address: () => `${this.#base.replace(/^http/, "ws")}/messages/subscribe`,
      getToken: this.#options.getToken,
      greeting: "connected",
      WebSocket: webSocketOf(this.#options),
    });
    const send = (frame) => this.#link.send(frame);
    this.#receipts = new Receipts(send);
    // A sync during the offline queue's replay could not tell the two apart.
    this.#catalogue = new Catalogue(this.#options.positions, (frame) => this.#isCaughtUp && send(frame));
    this.#outbox = new Outbox({
      storage: this.#options.storage,
      key: this.#options.storageKey,
      transmit: (message) => this.#isCaughtUp && send({ type: "message.send", ...message }),
      onError: (error, message) => this.emit("failed", { error, message }),
    });
    this.#link.on("frame", (frame) => this.#receive(frame));
    this.#link.on("lost", (code) => this.#lost(code));
    this.#link.on("state", (status) => this.emit("state", status));
    this.#link.on("traffic", (traffic) => this.emit("traffic", traffic));
  }

  get status() {
    return this.#link.status;
  }

  get pending() {
    return this.#outbox.messages;
  }

  get positions() {
    return this.#catalogue.positions;
  }

  connect() {
    const opened = whenOpen(this.#link);
    this.#link.start();
    return opened;
  }

  close() {
    this.#receipts.close();
    this.#lost(1000);
    this.#link.stop();
    this.#outbox.close();
    this.emit("closed");
  }

  wake() {
    this.#link.wake();
  }

  send(conversationId, text, { clientMessageId = newKey(), replyTo, mediaUrl } = {}) {
    if (!conversationId || typeof text !== "string") throw new TypeError("send takes a conversation's id and a text.");
    if (!clientMessageId || clientMessageId.length > KEY_CHARS_MOST) {
      throw new RangeError(`clientMessageId has to have 1 to ${KEY_CHARS_MOST} characters.`);
    }
    this.#typingAt.delete(conversationId); // a sent message ends it on the server
    return silenced(this.#outbox.add(clean({ conversationId, text, clientMessageId, replyTo, mediaUrl })));
  }

  markDelivered(conversationId, seq) {
    this.#receipts.mark("delivered", conversationId, seq);
  }

  markRead(conversationId, seq) {
    this.#receipts.mark("read", conversationId, seq);
  }

  typing(conversationId, isTyping = true) {
    const last = this.#typingAt.get(conversationId);
    if (isTyping ? monotonic() - last < TYPING_AGAIN_MS : last === undefined) return;
    if (this.#link.send({ type: "typing", conversationId, isTyping })) {
      if (isTyping) this.#typingAt.set(conversationId, monotonic());
      else this.#typingAt.delete(conversationId);
    }
  }

  join(conversationId) {
    this.#left.delete(conversationId);
    this.#link.send({ type: "join", conversationId });
  }

  leave(conversationId) {
    this.#left.add(conversationId);
    this.#link.send({ type: "leave", conversationId });
  }

  startAfter(conversationId, seq) {
    this.#catalogue.raise(conversationId, seq);
  }

  sendFrame(frame) {
    return this.#link.send(frame);
  }

  async request(method, path, body) {
    const call = async (refresh) => {
      const token = await askFor(this.#options.getToken, { refresh });
      if (!token) throw new RealtimeError("AUTH_REQUIRED", "getToken gave no token.");
      return request(this.#options.fetch ?? globalThis.fetch, method, this.#base + path, token, body);
    };
    try {
      return await call(false);
    } catch (error) {
      if (error.status !== 401) throw error;
      return call(true);
    }
  }

  async history(conversationId, { limit = 50, ...place } = {}) {
    const wanted = Object.entries(clean({ limit, ...place })).map(([name, value]) => `${name}=${Number(value)}`);
    const page = await this.request("GET", `/api/conversations/${conversationId}/messages?${wanted.join("&")}`);
    return { messages: page.messages.map(fromRest), hasMore: page.pagination.hasMore };
  }

  /** Every message past `after`, then each new one, for as long as the loop runs. */
  async *messages(conversationId, { after, signal } = {}) {
    let waiting = [];
    let last = after ?? -1;
    let isBehind = after !== undefined; // then the store is asked
    let wake = () => {};
    const isOver = () => signal?.aborted || this.status.state === "closed";
    const wakeUp = () => wake();
    const endings = [
      this.on("state", wakeUp),
      this.on("message", (message) => {
        if (message.conversationId !== conversationId) return;
        waiting.push(message);
        if (waiting.length > ITERATOR_MOST) {
          // A slow reader costs no memory: it will find them in the store.
          if (last < 0) last = waiting[0].seq - 1;
          waiting = [];
          isBehind = true;
        }
        wake();
      }),
    ];
    signal?.addEventListener("abort", wakeUp);
    try {
      while (!isOver()) {
        let next = waiting;
        const isStored = isBehind;
        if (isBehind) {
          isBehind = false;
          const page = await this.#page(conversationId, last);
          isBehind ||= !page || page.hasMore;
          next = page?.messages ?? [];
          if (!page) await pause(BACKOFF_MS * (1 + Math.random()));
        } else {
          waiting = [];
        }
        for (const message of next) {
          if (isOver()) return;
          if (message.seq <= last) continue;
          if (!isStored && last >= 0 && message.seq > last + 1) {
            isBehind = true; // what came while nobody listened: the store has it, and this one
            break;
          }
          last = message.seq;
          yield message;
        }
        if (!isBehind && waiting.length === 0 && !isOver()) await new Promise((resolve) => (wake = resolve));
      }
    } finally {
      for (const end of endings) end();
      signal?.removeEventListener("abort", wakeUp);
    }
  }

  /** A page of history, or null while it can't be had. */
  async #page(conversationId, after) {
    try {
      return await this.history(conversationId, { after: Math.max(0, after), limit: 200 });
    } catch (error) {
      if (error.status >= 400 && error.status < 500 && error.status !== 429) throw error;
      return null;
    }
  }

  #receive(frame) {
    const isNews = this.#actions[frame.type]?.(frame) ?? true;
    if (isNews) this.emit(frame.type, frame);
  }

  #actions = {
    connected: (frame) => {
      if (this.userId && this.userId !== frame.userId) {
        this.#catalogue.forget();
        this.#receipts.forgetAll();
        this.#left.clear();
      }
      this.userId = frame.userId;
      this.connectionId = frame.connectionId;
      this.conversationIds = frame.conversationIds;
      this.online = new Set(frame.onlineUserIds);
      this.#outbox.belongTo(frame.userId);
      for (const conversationId of this.#left) this.#link.send({ type: "leave", conversationId });
    },
    "replay.complete": () => {
      this.#isCaughtUp = true;
      this.#receipts.again();
      // What the queue does not hold: one's own messages of other devices, and what was over its cap.
      const mine = new Set(this.conversationIds);
      this.#catalogue.want(Object.keys(this.positions).filter((id) => mine.has(id)));
      this.#outbox.flush();
    },
    "message.new": (frame) => this.#hand(frame),
    "message.ack": (ack) => {
      const message = this.#outbox.acked(ack);
      if (message) this.#hand(ownMessage(message, ack, this.userId));
    },
    "message.delivered": (frame) => this.#confirm(frame),
    "message.read": (frame) => this.#confirm(frame),
    "sync.complete": (frame) => this.#catalogue.completed(frame),
    "presence.update": ({ userId, isOnline }) => void (isOnline ? this.online.add(userId) : this.online.delete(userId)),
    "conversation.new": ({ conversation }) => void this.conversationIds.push(conversation.id),
    "auth.expiring": () => void this.#refresh(),
    error: (error) => this.#refused(error),
  };

  /** Hand a message to the app, if it is the next one. */
  #hand(message) {
    if (!this.#catalogue.takes(message)) return false;
    this.emit("message", message);
    if (this.#options.autoDelivered && message.senderId !== this.userId) {
      this.#receipts.mark("delivered", message.conversationId, message.seq);
    }
    return true;
  }

  #confirm(frame) {
    if (frame.userId === this.userId) this.#receipts.confirmed(frame);
  }

  #refused(error) {
    if (error.clientMessageId) this.#outbox.refused(error);
    else if (error.requestType === "sync") this.#catalogue.failed(error);
    else if (error.requestType === "auth.refresh") this.#refreshLater();
    else if (/^message\.(delivered|read)$/.test(error.requestType ?? "")) {
      if (FINAL_ERRORS.has(error.code)) this.#receipts.forget(error.conversationId);
      else this.#receipts.again(error.retryAfterMs);
    } else if (error.code === "RATE_LIMITED") {
      // A frame was not even read, and so has no name.
      this.#outbox.unsure(error.retryAfterMs ?? 1_000);
      this.#receipts.again(error.retryAfterMs);
      this.#catalogue.failed(error);
    }
  }

  #lost(code) {
    this.#isCaughtUp = false;
    clearTimeout(this.#refreshing);
    if (code === 1009) this.#outbox.tooLarge();
    this.#outbox.lost();
    this.#catalogue.lost();
    this.#typingAt.clear();
    this.online.clear();
  }

  /** Bring a fresh token; where there is none yet, try again until the server closes. */
  async #refresh() {
    const { connectionId } = this;
    let token = null;
    try {
      token = await askFor(this.#options.getToken, { refresh: true });
    } catch (error) {
      this.emit("failed", { error, message: null });
    }
    if (this.connectionId !== connectionId || !this.#link.isOpen) return;
    if (token && token !== this.#link.token) {
      this.#link.send({ type: "auth.refresh", token });
      this.#link.token = token;
    } else {
      this.#refreshLater();
    }
  }

  #refreshLater() {
    clearTimeout(this.#refreshing);
    this.#refreshing = setTimeout(() => this.#refresh(), REFRESH_AGAIN_MS);
  }
}

/** The public stream of bounty changes: each event once, in order, over every reconnect. */
export class BountyEvents extends Emitter {
  #link;
  #topics;
  #resumes;
  lastEventId;

  constructor(options) {
    super();
    this.#topics = new Set(options.bountyIds ?? []);
    this.lastEventId = options.lastEventId ?? null;
    this.#checkTopics();
    const base = baseOf(options.url).replace(/^http/, "ws");
    this.#link = new Link({
      address: () => `${base}/events/subscribe${this.#query()}`,
      getToken: null, // anyone may listen
      greeting: "connection",
      WebSocket: webSocketOf(options),
    });
    this.#link.on("frame", (frame) => this.#receive(frame));
    this.#link.on("state", (status) => this.emit("state", status));
    this.#link.on("traffic", (traffic) => this.emit("traffic", traffic));
  }

  get status() {
    return this.#link.status;
  }

  get bountyIds() {
    return [...this.#topics];
  }

  connect() {
    const opened = whenOpen(this.#link);
    this.#link.start();
    return opened;
  }

  close() {
    this.#link.stop();
    this.emit("closed");
  }

  wake() {
    this.#link.wake();
  }

  watch(bountyIds) {
    const before = this.#topics;
    this.#topics = bountyIds.length ? new Set([...before, ...bountyIds]) : new Set();
    try {
      this.#checkTopics();
    } catch (error) {
      this.#topics = before;
      throw error;
    }
    this.#link.send({ type: "subscribe", bountyIds });
  }

  unwatch(bountyIds) {
    for (const id of bountyIds) this.#topics.delete(id);
    if (bountyIds.length === 0) this.#topics.clear();
    this.#link.send({ type: "unsubscribe", bountyIds });
  }

  sendFrame(frame) {
    return this.#link.send(frame);
  }

  #receive(frame) {
    if (frame.type === "connection" && !this.#resumes) this.lastEventId = frame.lastEventId;
    if (frame.type === "replay.complete") this.lastEventId = frame.lastEventId;
    if (frame.type === "bounty.status") {
      if (frame.eventId <= this.lastEventId) return;
      this.lastEventId = frame.eventId;
    }
    this.emit(frame.type, frame);
  }

  #query() {
    this.#resumes = this.lastEventId !== null;
    const parts = this.bountyIds.map((id) => `bountyId=${encodeURIComponent(id)}`);
    if (this.#resumes) parts.push(`lastEventId=${this.lastEventId}`);
    return parts.length ? `?${parts.join("&")}` : "";
  }

  #checkTopics() {
    if (this.#topics.size > TOPICS_MOST) throw new RangeError(`At most ${TOPICS_MOST} bounties; watch all instead.`);
  }
}

function newEntry(message, userId) {
  const entry = { message, userId, timer: undefined };
  entry.promise = silenced(new Promise((resolve, reject) => Object.assign(entry, { resolve, reject })));
  return entry;
}

function newCursor() {
  return { wanted: 0, sent: 0, confirmed: 0 };
}

/** A promise whose rejection nobody has to handle: it is told by an event too. */
function silenced(promise) {
  promise.catch(() => {});
  return promise;
}

function whenOpen(link) {
  if (link.isOpen) return Promise.resolve();
  return silenced(
    new Promise((resolve, reject) => {
      const off = link.on("state", ({ state, error, code }) => {
        if (state === "open") resolve();
        else if (state === "closed") reject(error ?? new RealtimeError("CLOSED", "Closed.", { closeCode: code }));
        else return;
        off();
      });
    }),
  );
}

function baseOf(url) {
  if (!/^(http|ws)s?:\/\//.test(url ?? "")) throw new TypeError("url has to begin with http(s):// or ws(s)://.");
  return url.replace(/^ws/, "http").replace(/\/+$/, "");
}

function webSocketOf({ WebSocket = globalThis.WebSocket }) {
  if (!WebSocket) throw new TypeError("There is no WebSocket here: give one as an option (Node.js has it from 22 on).");
  return WebSocket;
}

/** Without what is undefined or null. */
function clean(fields) {
  return Object.fromEntries(Object.entries(fields).filter(([, value]) => value !== undefined && value !== null));
}

/** Unique among one sender's messages; not a secret. */
function newKey() {
  if (globalThis.crypto?.randomUUID) return globalThis.crypto.randomUUID();
  const part = () => Math.random().toString(36).slice(2, 12);
  return `${Date.now().toString(36)}-${part()}-${part()}`;
}

/** Milliseconds of a clock that nobody sets. */
function monotonic() {
  return (globalThis.performance ?? Date).now();
}

function checkSeq(seq) {
  if (!Number.isSafeInteger(seq) || seq < 0) throw new TypeError("seq has to be a whole number.");
}

/** What getToken gives, or null; rejects where it throws, or says nothing. */
async function askFor(getToken, wish) {
  return (await within(TOKEN_MS, async () => getToken(wish), "getToken")) ?? null;
}

/** What `start()` comes to, unless it takes longer. */
function within(ms, start, who) {
  return new Promise((resolve, reject) => {
    const late = () => reject(new RealtimeError("NETWORK", `${who} did not answer.`));
    const timer = setTimeout(late, ms);
    start().then(resolve, reject).finally(() => clearTimeout(timer));
  });
}

function pause(ms) {
  return new Promise((resolve) => setTimeout(resolve, ms));
}

function asError({ code, message, retryAfterMs }) {
  return new RealtimeError(code, message, { retryAfterMs });
}

/** One's own message as the others see it: this device gets an ack instead. */
function ownMessage(message, { messageId, seq, timestamp }, senderId) {
  const given = { type: "message.new", replyTo: null, mediaUrl: null, ...message };
  return { ...given, messageId, senderId, timestamp, status: "sent", seq };
}

/** A message of REST in the form of a frame. */
function fromRest({ id, createdAt, ...message }) {
  return { type: "message.new", messageId: id, timestamp: createdAt, ...message };
}

async function request(fetch, method, url, token, body) {
  const headers = { Authorization: `Bearer ${token}` };
  if (body !== undefined) headers["Content-Type"] = "application/json";
  const call = async () => {
    const answer = await fetch(url, { method, headers, body: body === undefined ? undefined : JSON.stringify(body) });
    // undefined: no JSON, so not our server's.
    return [answer, answer.status === 204 ? null : await answer.json().catch(() => undefined)];
  };
  const [answer, given] = await within(ANSWER_MS, call, "The server").catch(() => {
    throw new RealtimeError("NETWORK", "The server can't be reached.");
  });
  if (answer.ok && given !== undefined) return given;
  throw new RealtimeError(given?.code ?? "INTERNAL", given?.message ?? `HTTP ${answer.status}`, {
    status: answer.status,
    retryAfterMs: Number(answer.headers.get("Retry-After") ?? 0) * 1000 || undefined,
  });
}
