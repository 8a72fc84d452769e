// An app's use of the client library, for `tsc --strict`. It is checked and never run.
import {
  BountyEvents, Realtime, RealtimeError, type Message, type Status, type Storage,
} from "../../static/bountyexpo-realtime.js";

const kept: Storage = { getItem: async () => null, setItem: async () => {} };
const getToken = async ({ refresh }: { refresh: boolean }) => (refresh ? "a.b.c" : null);
const realtime = new Realtime({ url: "https://realtime.example", getToken, storage: localStorage, WebSocket, fetch });
new Realtime({ url: "https://realtime.example", getToken: () => "a.b.c", storage: kept });

export const off: () => void = realtime.on("message", ({ seq, clientMessageId }) => {
  realtime.markRead("c", seq);
  const key: string | null | undefined = clientMessageId;
  return key;
});
realtime.on("typing.start", ({ senderId }) => senderId.length);
realtime.on("failed", ({ error, message }) => {
  if (error instanceof RealtimeError && error.retryAfterMs !== undefined) message?.text.trim();
});
realtime.on("state", (status: Status) => {
  if (status.state === "waiting") status.retryInMs.toFixed();
  else if (status.state === "open") status.connectionId.trim();
  else if (status.state === "closed") status.error?.message.trim();
});

export async function use(): Promise<void> {
  await realtime.connect();
  const { seq, duplicate } = await realtime.send("c", "text", { replyTo: "m" });
  const isNew: boolean = !duplicate && seq > 0;
  const { messages } = await realtime.history("c", { before: seq });
  const read = await realtime.once("message.read");
  for await (const message of realtime.messages("c", { after: read.seq, signal: new AbortController().signal })) {
    const one: Message = message;
    if (isNew && messages.includes(one)) break;
  }
  const events = new BountyEvents({ url: "https://realtime.example", bountyIds: [] });
  events.on("bounty.status", ({ id, status }) => status === "open" && events.watch([id]));
}

// @ts-expect-error no event has this name
realtime.on("mesage", () => {});
// @ts-expect-error a seq is a number
realtime.markRead("c", "7");
// @ts-expect-error there has to be a getToken
new Realtime({ url: "https://realtime.example" });
// @ts-expect-error it is only read
realtime.userId = "u";
// @ts-expect-error it is not there at run time
import { Emitter } from "../../static/bountyexpo-realtime.js";
