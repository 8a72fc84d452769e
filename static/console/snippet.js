/** What to paste into the browser's own console. */

import { byId, copy } from "./dom.js";

const TOKENS = `const tokenOf = async (user) => {
  const answer = await fetch("/console/token", { method: "POST", body: JSON.stringify({ user }) });
  return (await answer.json()).token;
};`;

const PASTED = `const tokenOf = async (user) => "PASTE A TOKEN OF " + user;`;

const LIBRARY = (conversationId) => `const { Realtime, BountyEvents } = await import("/static/bountyexpo-realtime.js");
const be = (user) => new Realtime({ url: location.origin, getToken: () => tokenOf(user) });
const alice = be("alice"), bob = be("bob");
const events = new BountyEvents({ url: location.origin });
bob.on("message", (message) => console.log("bob has", message.text));
events.on("bounty.status", (event) => console.log("bounty", event.id, event.status));
await Promise.all([alice.connect(), bob.connect(), events.connect()]);
await alice.send("${conversationId}", "Is the cat back?");`;

const PLAIN = (conversationId) => `const show = (name, ws) => {
  ws.onmessage = (event) => console.log(name, JSON.parse(event.data));
  return new Promise((resolve) => (ws.onopen = () => resolve(ws)));
};
const ws = location.origin.replace("http", "ws");
const be = async (user) =>
  show(user, new WebSocket(ws + "/messages/subscribe", ["bountyexpo.v1", "bearer." + (await tokenOf(user))]));
const alice = await be("alice"), bob = await be("bob");
const events = await show("events", new WebSocket(ws + "/events/subscribe"));
alice.send(JSON.stringify({
  type: "message.send", conversationId: "${conversationId}",
  text: "Is the cat back?", clientMessageId: crypto.randomUUID(),
}));`;

/** Show it, for a conversation. */
export function showSnippet(makesTokens, conversationId) {
  const draw = () => {
    const isPlain = document.querySelector("input[name=snippet]:checked").value === "plain";
    const body = (isPlain ? PLAIN : LIBRARY)(conversationId);
    byId("snippet-text").textContent = `${makesTokens ? TOKENS : PASTED}\n${body}`;
  };
  for (const radio of document.querySelectorAll("input[name=snippet]")) radio.onchange = draw;
  byId("copy-snippet").onclick = () => copy(byId("snippet-text").textContent, byId("snippet-text"));
  draw();
}
