// Runs what tests/client_scripts.py sends: one JSON line {id, code} in, one {id, value | error} out.
import { createInterface } from "node:readline";

globalThis.lib = await import(new URL("../static/bountyexpo-realtime.js", import.meta.url));
globalThis.state = {};
const AsyncFunction = (async () => {}).constructor;

for await (const line of createInterface({ input: process.stdin })) {
  const { id, code } = JSON.parse(line);
  const answer = (result) => process.stdout.write(`${JSON.stringify({ id, ...result })}\n`);
  new AsyncFunction(code)().then(
    (value) => answer({ value: value ?? null }),
    (error) => answer({ error: `${error.stack}` }),
  );
}
process.exit(0);
