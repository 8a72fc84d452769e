import "./setup.mjs";
import { drive } from "./drive.mjs";
import { Chat } from "./hooks.jsx";

await drive(Chat, { send: () => document.querySelector("button"), ticks: true });
