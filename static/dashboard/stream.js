// The live socket: connects, greets with the token, and comes back by itself.

const FIRST_WAIT_MS = 500;
const LONGEST_WAIT_MS = 15_000;
// An update comes each second; without one for this long the connection is dead, whatever the browser says.
const SILENCE_MS = 8_000;
const UNAUTHORIZED = 4401;

/**
 * Open the stream. `on` is told: `hello(frame)`, `update(frame)`, `lost(retryInMs)`, `refused(message)`; after the last
 * nothing more comes. Returns a function that ends it.
 */
export function openStream(token, on) {
  let socket = null;
  let attempts = 0;
  let timer = 0;
  let watchdog = 0;
  let refusal = "";
  let ended = false;

  function connect() {
    const url = new URL("dashboard/stream", document.baseURI);
    url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
    try {
      // A token in a subprotocol is in no address, so in no log and no history.
      socket = new WebSocket(url, ["bountyexpo.v1", `bearer.${token}`]);
    } catch {
      on.refused("That is no access token.");
      return;
    }
    const mine = socket;
    mine.onmessage = (event) => mine === socket && take(JSON.parse(event.data));
    mine.onclose = (event) => mine === socket && closed(event.code);
    listen();
  }

  function take(frame) {
    listen();
    if (frame.type === "dashboard.hello") {
      attempts = 0;
      on.hello(frame);
    } else if (frame.type === "dashboard.update") {
      on.update(frame);
    } else if (frame.type === "error") {
      refusal = frame.message;
    }
  }

  function listen() {
    clearTimeout(watchdog);
    watchdog = setTimeout(() => {
      const silent = socket;
      socket = null;
      silent.close();
      retry();
    }, SILENCE_MS);
  }

  function closed(code) {
    clearTimeout(watchdog);
    if (ended) return;
    if (code === UNAUTHORIZED) {
      on.refused(refusal || "The token is not valid any more.");
    } else {
      retry();
    }
  }

  function retry() {
    // Full jitter: many dashboards do not come back in step.
    const wait = Math.max(FIRST_WAIT_MS, Math.random() * Math.min(LONGEST_WAIT_MS, FIRST_WAIT_MS * 2 ** attempts));
    attempts += 1;
    on.lost(wait);
    timer = setTimeout(connect, wait);
  }

  connect();
  return () => {
    ended = true;
    clearTimeout(timer);
    clearTimeout(watchdog);
    socket?.close();
  };
}
