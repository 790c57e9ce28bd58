// What is shown. Texts of others are set as text, never as markup.

import { Refused, Session, SignInNeeded } from "./session.js";

const LOOK = {
  pending: "waits", approved: "waits", applying: "waits", rolling_out: "waits",
  applied: "good", live: "good",
  rejected: "bad", failed: "bad", stale: "bad", rolled_back: "bad",
};
const PAGE = 25;

const element = (id) => document.getElementById(id);
const setting = (name) => document.querySelector(`meta[name="countersign-${name}"]`).content;
const gateway = setting("gateway");
const session = new Session(gateway, setting("client"), location.origin + location.pathname);
let cursor = null;

function notify(text, isBad = false) {
  const notice = element("notice");
  notice.textContent = text;
  notice.classList.toggle("bad", isBad);
  notice.hidden = text === "";
}

function show() {
  element("welcome").hidden = session.isSignedIn;
  element("list").hidden = !session.isSignedIn;
  element("sign-out").hidden = !session.isSignedIn;
  if (!session.isSignedIn) {
    element("name").textContent = "";
    element("rows").replaceChildren();
  }
}

function cell(text, small = "") {
  const made = document.createElement("td");
  made.append(text);
  if (small) made.append(Object.assign(document.createElement("small"), { textContent: small }));
  return made;
}

function row(promotion) {
  const made = document.createElement("tr");
  const state = Object.assign(document.createElement("span"), { textContent: promotion.state.replace("_", " ") });
  state.className = `state ${LOOK[promotion.state] ?? ""}`;
  const why = promotion.state_reason ?? (promotion.waits_for === "nothing" ? "" : promotion.waits_for);
  made.append(
    cell(state, why),
    cell(promotion.model),
    cell(promotion.alias),
    cell(promotion.to_version, promotion.from_version === null ? "" : `from ${promotion.from_version}`),
    cell(promotion.requested_by.name, promotion.reason),
    cell(new Date(promotion.created_at).toLocaleString()),
  );
  return made;
}

async function list({ more = false } = {}) {
  const query = new URLSearchParams({ limit: String(PAGE) });
  if (more && cursor !== null) query.set("cursor", cursor);
  const page = await session.get(`/promotions?${query}`);
  const rows = page.items.map(row);
  if (more) element("rows").append(...rows);
  else element("rows").replaceChildren(...rows);
  cursor = page.next_cursor;
  element("more").hidden = cursor === null;
  element("empty").hidden = element("rows").childElementCount > 0;
}

async function greet() {
  const me = await session.get("/me");
  element("name").textContent = me.name;
}

/** Runs what a person asked for, and tells how it ended. */
async function attempt(button, action) {
  if (button) button.disabled = true;
  notify("");
  try {
    await action();
  } catch (error) {
    if (error instanceof SignInNeeded) notify(`${error.message} Sign in to go on.`);
    else if (error instanceof Refused) notify(error.message, true);
    else {
      console.warn(error); // holds no token
      notify(`The gateway at ${gateway} cannot be reached, or does not allow this page to read its answers.`, true);
    }
  } finally {
    if (button) button.disabled = false;
    show();
  }
}

const on = (id, action) => element(id).addEventListener("click", (event) => attempt(event.currentTarget, action));
on("sign-in", () => session.signIn());
on("sign-out", () => session.signOut());
on("refresh", () => list());
on("more", () => list({ more: true }));

element("gateway").textContent = gateway;
await attempt(null, () => session.finish());
if (session.isSignedIn) await attempt(null, () => Promise.all([greet(), list()]));
