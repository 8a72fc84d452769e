// The page: who is reading, and in what state it is. Numbers are drawn by live.js and history.js.

import { at, make, say } from "./elements.js";
import { History } from "./history.js";
import { Live } from "./live.js";
import { openStream } from "./stream.js";

const KEY = "bountyexpo.dashboard.token";

let token = sessionStorage.getItem(KEY) ?? "";
let closeStream = null;
const live = new Live();
const history = new History({ token: () => token, refused: signOut });

at("token-form").addEventListener("submit", (event) => {
  event.preventDefault();
  token = at("token").value.trim().replace(/^Bearer\s+/i, "");
  if (token) open();
});
at("sign-out").addEventListener("click", () => signOut(""));

if (token) open();
else ask("");

function open() {
  say(at("token-error"), "");
  if (at("sign-in").contains(document.activeElement)) at("main").focus({ preventScroll: true });
  show("sign-in", false);
  show("board", true);
  show("sign-out", true);
  document.body.classList.add("loading");
  state("wait", "Connecting…");
  history.load();
  closeStream = openStream(token, {
    hello(frame) {
      sessionStorage.setItem(KEY, token);
      at("token").value = "";
      at("about").textContent = `${frame.version} · ${frame.environment}`;
      at("about").title = `Process ${frame.instance}, since ${new Date(frame.startedAt).toLocaleString()}`;
      document.body.classList.remove("stale");
      if (live.greet(frame)) document.body.classList.remove("loading");
      show("notice", false);
      state("on", "Live");
    },
    update(frame) {
      document.body.classList.remove("loading");
      live.update(frame);
    },
    lost(waitMs) {
      document.body.classList.add("stale");
      state("wait", "Reconnecting…");
      const notice = at("notice");
      notice.dataset.kind = "error";
      notice.replaceChildren(make("span", {}, "The server does not answer. What you see is from before; trying again"
        + ` ${waitMs < 1500 ? "now" : `in ${Math.round(waitMs / 1000)} seconds`}.`));
      notice.hidden = false;
    },
    refused: signOut,
  });
}

/** Forget the token and ask for one, saying why. */
function signOut(reason) {
  closeStream?.();
  closeStream = null;
  history.stop();
  token = "";
  sessionStorage.removeItem(KEY);
  ask(reason);
}

function ask(reason) {
  state("off", "Not connected");
  document.body.classList.remove("stale", "loading");
  at("about").textContent = "";
  show("notice", false);
  show("board", false);
  show("sign-out", false);
  show("sign-in", true);
  say(at("token-error"), reason);
  at("token").setAttribute("aria-invalid", String(Boolean(reason)));
  at("token").focus();
}

function state(name, text) {
  at("state").dataset.state = name;
  say(at("state"), text);
}

function show(id, shown) {
  at(id).hidden = !shown;
}
