// Uses a rendered chat as a person does, with Bob at the other end, and checks what either sees.
import { createElement, StrictMode } from "react";
import { createRoot } from "react-dom/client";
import { Realtime } from "./bountyexpo-realtime.js";

const url = process.env.URL;
const conversationId = process.env.CHAT;
const getToken = () => process.env.TOKEN;

async function until(what, condition) {
  const giveUp = Date.now() + 8000;
  while (!condition()) {
    if (Date.now() > giveUp) throw new Error(`not seen: ${what}. The page: ${document.body.innerHTML}`);
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}

function type(field, text) {
  Object.getOwnPropertyDescriptor(window.HTMLInputElement.prototype, "value").set.call(field, text);
  field.dispatchEvent(new window.Event("input", { bubbles: true }));
}

export async function drive(Component, { send, ticks }) {
  const root = createRoot(document.getElementById("root"));
  root.render(createElement(StrictMode, null, createElement(Component, { url, getToken, conversationId })));
  const shown = (text) => document.body.textContent.includes(text);

  const bob = new Realtime({ url, getToken: () => process.env.BOBS_TOKEN });
  const heard = [];
  bob.on("message", (message) => heard.push(message));
  await bob.connect();

  const greeting = `hello ${Math.random()}`;
  await bob.send(conversationId, greeting);
  await until("Bob's message", () => shown(greeting));
  bob.typing(conversationId);
  await until("that Bob is typing", () => shown("is typing"));

  const answer = `and to you ${Math.random()}`;
  type(document.querySelector("input"), answer);
  await until("a button that may be pressed", () => !send().disabled && send().getAttribute("aria-disabled") !== "true");
  press(send());
  await until("one's own message", () => shown(answer));
  await until("it at Bob's", () => heard.some((message) => message.text === answer));
  if (ticks) {
    bob.markRead(conversationId, heard.at(-1).seq);
    await until("that Bob has read it", () => shown(`${answer} ✓✓`));
  }
  root.unmount();
  bob.close();
  console.log("seen");
  process.exit(0);
}

function press(element) {
  for (const name of ["mousedown", "mouseup", "click"]) {
    element.dispatchEvent(new window.MouseEvent(name, { bubbles: true, cancelable: true, button: 0 }));
  }
}
