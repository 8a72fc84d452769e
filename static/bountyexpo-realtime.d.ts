/** Types of bountyexpo-realtime.js. Times are ISO 8601 in UTC; ids are UUID strings unless said otherwise. */

export {}; // what is not exported below is not there at run time

export type MessageStatus = "sent" | "delivered" | "read";

export type BountyStatus =
  | "open" | "in_progress" | "completed" | "archived" | "deleted" | "cancelled" | "cancellation_requested";

/** A chat message. `seq` is its place in its conversation: 1, 2, 3, … without a gap. */
export interface Message {
  type: "message.new";
  conversationId: string;
  messageId: string;
  senderId: string;
  text: string;
  timestamp: string;
  status: MessageStatus;
  seq: number;
  replyTo: string | null;
  mediaUrl: string | null;
  clientMessageId?: string | null;
  /** Sent again after a reconnect or a sync. */
  replayed?: true;
  /** Only in what `history` gives, and so in the first messages of a loop with `after`. */
  senderHandle?: string;
}

/** The server has stored a message. */
export interface Ack {
  type: "message.ack";
  clientMessageId: string;
  messageId: string;
  conversationId: string;
  seq: number;
  timestamp: string;
  /** It had been stored before, by an earlier send with the same key. */
  duplicate?: true;
}

/** Everything up to `seq` has reached, or was read by, `userId` (also in `senderId`). */
export interface Receipt {
  type: "message.delivered" | "message.read";
  conversationId: string;
  messageId: string;
  senderId: string;
  userId: string;
  timestamp: string;
  seq: number;
  status: "delivered" | "read";
}

export interface Typing {
  type: "typing.start" | "typing.stop";
  conversationId: string;
  senderId: string;
  timestamp: string;
}

export interface Presence {
  type: "presence.update";
  conversationId: string;
  userId: string;
  senderId: string;
  isOnline: boolean;
  timestamp: string;
  /** Only when offline. */
  lastSeenAt?: string;
}

export interface Conversation {
  id: string;
  isGroup: boolean;
  bountyId: string | null;
  createdAt: string;
  updatedAt: string;
  participants: { id: string; handle: string }[];
  lastMessage: { id: string; text: string; senderId: string; createdAt: string; seq: number } | null;
  unreadCount: number;
  deliveredSeq: number;
  readSeq: number;
  lastSeq: number;
}

/** Something to know; sent again at each connect until it is read, then with `replayed`. */
export interface AppNotification {
  type: "notification.new";
  id: string;
  notificationType:
    "applications" | "acceptances" | "completions" | "payments" | "messages" | "follows" | "reminders" | "system";
  title: string;
  body: string;
  data: unknown;
  timestamp: string;
  /** It was there before this connection. */
  replayed?: true;
}

export interface Connected {
  type: "connected";
  message: string;
  userId: string;
  conversationIds: string[];
  timestamp: string;
  connectionId: string;
  onlineUserIds: string[];
  heartbeatIntervalMs: number;
  expiresAt: string;
}

/** One committed change of a bounty. `eventId` rises by one per event. */
export interface BountyEvent {
  type: "bounty.status";
  /** The bounty. */
  id: string;
  status: BountyStatus;
  timestamp: string;
  eventId: number;
  replayed?: true;
}

export interface ErrorFrame {
  type: "error";
  code: string;
  message: string;
  timestamp: string;
  requestType?: string;
  conversationId?: string;
  clientMessageId?: string;
  retryAfterMs?: number;
}

/** How a connection is doing. */
export type Status =
  | { state: "idle" }
  | { state: "connecting"; attempt: number }
  | { state: "open"; connectionId: string }
  /** It comes back by itself in `retryInMs`. `error`: what `getToken` threw. */
  | { state: "waiting"; code?: number; error?: unknown; retryInMs: number; attempt: number }
  /** It does not come back by itself: `close()` was called, or the server said that it is no use. */
  | { state: "closed"; code?: number; error?: Error };

/** One frame on the wire, for logs and consoles. Sent `auth.refresh` frames hold a token. */
export interface Traffic {
  direction: "in" | "out";
  text: string;
  /** Parsed; only of what came in. null: it is no JSON, so not of our server. */
  frame?: { type: string; [field: string]: unknown } | null;
  /** In milliseconds, as of Date.now(). */
  at: number;
}

/** `localStorage`, `sessionStorage` and React Native's AsyncStorage are such. */
export interface Storage {
  getItem(key: string): string | null | Promise<string | null>;
  setItem(key: string, value: string): unknown;
}

/** `code` is the server's (see the wire contract), or CLOSED, OTHER_USER, TOO_LARGE, NETWORK. */
export class RealtimeError extends Error {
  code: string;
  retryAfterMs?: number;
  closeCode?: number;
  /** Of a REST call. */
  status?: number;
}

interface SharedEvents {
  state: Status;
  traffic: Traffic;
  closed: undefined;
  error: ErrorFrame;
  pong: { type: "pong"; ts: unknown; timestamp: string };
  "server.draining": { type: "server.draining"; reconnectAfterMs: number };
}

export interface RealtimeEvents extends SharedEvents {
  /** Every message of every conversation: once, in order, one's own included, whatever the network did meanwhile. */
  message: Message;
  /** What the server sent, less what was seen before or is to come again in order: not one's own of this device. */
  "message.new": Message;
  "message.ack": Ack;
  "message.delivered": Receipt;
  "message.read": Receipt;
  "typing.start": Typing;
  "typing.stop": Typing;
  "presence.update": Presence;
  "notification.new": AppNotification;
  /** Read on some device, or gone. */
  "notification.read": { type: "notification.read"; ids: string[]; timestamp: string };
  "conversation.new": { type: "conversation.new"; conversation: Conversation };
  connected: Connected;
  joined: { type: "joined"; conversationId: string };
  left: { type: "left"; conversationId: string };
  "replay.complete": { type: "replay.complete"; count: number; truncated: string[] };
  "sync.complete": { type: "sync.complete"; count: number; truncated: string[] };
  "auth.expiring": { type: "auth.expiring"; expiresAt: string };
  "auth.refreshed": { type: "auth.refreshed"; expiresAt: string };
  /** A message was given up (its `send` rejects too), or, without one, a token or the storage could not be had. */
  failed: { error: Error; message: OutgoingMessage | null };
}

export interface BountyEventsEvents extends SharedEvents {
  "bounty.status": BountyEvent;
  connection: {
    type: "connection"; message: string; connectionId: string; lastEventId: number; heartbeatIntervalMs: number; timestamp: string;
  };
  /** `truncated`: more was missed than the server keeps at hand; read the bounties again over REST. */
  "replay.complete": { type: "replay.complete"; count: number; lastEventId: number; truncated: boolean };
  subscribed: { type: "subscribed"; bountyIds: string[] };
}

export interface OutgoingMessage {
  conversationId: string;
  text: string;
  clientMessageId: string;
  replyTo?: string;
  mediaUrl?: string;
}

declare class Emitter<Events> {
  /** Call `listener` with each event of a type; returns a function that ends it. What it throws is the app's. */
  on<Type extends keyof Events>(type: Type, listener: (event: Events[Type]) => void): () => void;
  /** The next event of a type. */
  once<Type extends keyof Events>(type: Type): Promise<Events[Type]>;
}

export interface RealtimeOptions {
  /** The server, as https://realtime.example (http, ws and wss are understood as well). */
  url: string;
  /**
   * Return the user's access token; called before each connection and REST call. With `refresh: true` the last one was
   * refused or is about to expire: return a new one. Throw where there is none just now (30 s of silence count as that),
   * and it is asked again; return null where nobody is signed in, and the connection closes.
   */
  getToken(wish: { refresh: boolean }): string | null | Promise<string | null>;
  /**
   * Where messages wait that are not acked yet, so that they outlive the app. Default: in memory only, and so where it
   * can't be read: what it holds is left alone then.
   */
  storage?: Storage;
  /** Default `bountyexpo-realtime.outbox`. Give each person, and each tab, their own. */
  storageKey?: string;
  /** {conversation: seq} up to which the app has everything: what is newer is sent on connecting. */
  positions?: Record<string, number>;
  /** Say `message.delivered` once the `message` listeners have run (default). Otherwise call `markDelivered`. */
  autoDelivered?: boolean;
  /** Where there is no global one, as in Node.js before 22: `(await import("ws")).WebSocket`. */
  WebSocket?: unknown;
  fetch?: typeof fetch;
}

/** Messaging for one person. */
export class Realtime extends Emitter<RealtimeEvents> {
  constructor(options: RealtimeOptions);

  readonly status: Status;
  /** Who is connected; null before the first time. */
  readonly userId: string | null;
  /** Give it as `X-Connection-Id` with a REST send, and one's other devices hear of the message. */
  readonly connectionId: string | null;
  readonly conversationIds: string[];
  /** People the user shares a conversation with who are online now. */
  readonly online: Set<string>;
  /** What has not been acked yet, in order. */
  readonly pending: OutgoingMessage[];
  /** {conversation: seq} up to which everything has been handed over; keep it for the `positions` of the next start. */
  readonly positions: Record<string, number>;

  /** Connect, and stay connected until `close`. Resolves when first open; rejects when that is no use. */
  connect(): Promise<void>;
  /** Disconnect. Unacked messages are given up (CLOSED), except that a `storage` keeps them for the next start. */
  close(): void;
  /** The network or the app is back: try at once. In browsers the `online` event does it by itself. */
  wake(): void;

  /**
   * Send a message; resolves with its ack once it is stored. It waits while offline, keeps its order within the
   * conversation, and is stored once however often the network made us send it. Rejects with a `RealtimeError` where
   * the server will not have it. The promise may be ignored: `failed` tells as well.
   */
  send(
    conversationId: string,
    text: string,
    options?: { clientMessageId?: string; replyTo?: string; mediaUrl?: string },
  ): Promise<Ack>;
  /** Everything up to `seq` has arrived. Kept and repeated until the server has confirmed it. */
  markDelivered(conversationId: string, seq: number): void;
  /** Everything up to `seq` was read. Kept and repeated until the server has confirmed it. */
  markRead(conversationId: string, seq: number): void;
  /** Call it with every keystroke: repeats within 3 s are left out, and the server ends it by itself after 6 s. */
  typing(conversationId: string, isTyping?: boolean): void;
  /** Hear of typing and presence in a conversation again; a connection starts joined to all. */
  join(conversationId: string): void;
  /** Hear no more of typing and presence there, over reconnects too; messages go on. */
  leave(conversationId: string): void;
  /** The app has everything up to `seq` from REST: hand over only what is newer. */
  startAfter(conversationId: string, seq: number): void;

  /** A page of history, oldest first: the newest, or next to a `seq`, or by number. */
  history(
    conversationId: string,
    place?: { before?: number; after?: number; page?: number; limit?: number },
  ): Promise<{ messages: Message[]; hasMore: boolean }>;
  /**
   * Loop over a conversation: `for await (const message of realtime.messages(id, { after: 0 }))`. First what is stored
   * past `after` (without it: nothing), then each new message, in order and once, until `break`, `signal` or `close`.
   */
  messages(conversationId: string, options?: { after?: number; signal?: AbortSignal }): AsyncGenerator<Message, void>;
  /**
   * A REST call as this person; returns the body. Made once more with a fresh token where the first was refused (401).
   * Rejects with a `RealtimeError`; NETWORK after 15 s without an answer: whether it was acted on is unknown then.
   */
  request(method: string, path: string, body?: unknown): Promise<any>;
  /** Send any frame, or text as it is; false when not open. Nothing is kept or repeated. */
  sendFrame(frame: object | string): boolean;
}

/** The public stream of bounty changes: each event once and in order, over every reconnect. */
export class BountyEvents extends Emitter<BountyEventsEvents> {
  constructor(options: {
    url: string;
    /** Only these bounties, at most 200. Default: all. */
    bountyIds?: string[];
    /** Resume after this event. Default: from now on. */
    lastEventId?: number;
    WebSocket?: unknown;
  });

  readonly status: Status;
  readonly bountyIds: string[];
  /** The newest event seen: keep it to resume there. */
  readonly lastEventId: number | null;

  connect(): Promise<void>;
  close(): void;
  wake(): void;
  /** Narrow the stream to these bounties too; an empty list means all again. */
  watch(bountyIds: string[]): void;
  /** Take these out again; with the last one it is all again. */
  unwatch(bountyIds: string[]): void;
  sendFrame(frame: object | string): boolean;
}
