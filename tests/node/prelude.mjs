// Before the plain examples: what they leave to the app, and a note of every frame that they see.
import { writeSync } from "node:fs";

const getToken = async () => process.env.TOKEN;
const getBobsToken = async () => process.env.BOBS_TOKEN;
const getAdminToken = async () => process.env.ADMIN_TOKEN;
const seen = new Set();
globalThis.WebSocket = class extends WebSocket {
  constructor(url, protocols) {
    super(url, protocols);
    this.addEventListener("message", ({ data }) => seen.add(`${new URL(url).pathname} ${JSON.parse(data).type}`));
  }
};
console.assert = (condition) => {
  if (!condition) throw new Error("an assertion of the example does not hold");
};
const example = (number) => writeSync(2, `example ${number}\n`);
