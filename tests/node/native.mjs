import "./setup.mjs";
import { drive } from "./drive.mjs";
import { ChatScreen } from "./screen.jsx";

await drive(ChatScreen, { send: () => document.querySelector('[role="button"]'), ticks: false });
