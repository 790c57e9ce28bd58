// The account page: times as this person's clock shows them, and their access tokens, by the API that everybody uses.

const TOKENS = "/control/v1/tokens";
const find = (id) => document.getElementById(id);
const list = find("token-list");
const form = find("token-form");
const made = find("token-made");
const problem = find("token-problem");

const moment = (text) =>
  new Date(text).toLocaleString(undefined, { day: "numeric", month: "short", year: "numeric", hour: "2-digit", minute: "2-digit" });
const day = (text) => new Date(text).toLocaleDateString(undefined, { day: "numeric", month: "short", year: "numeric" });

for (const time of document.querySelectorAll("time")) {
  time.title = time.textContent;
  time.textContent = moment(time.dateTime);
}

async function ask(method, path, body) {
  const answer = await fetch(path, {
    method,
    headers: { Accept: "application/json", ...(body ? { "Content-Type": "application/json" } : {}) },
    body: body ? JSON.stringify(body) : undefined,
  });
  if (answer.status === 401) {
    window.location.reload();
  }
  const said = answer.status === 204 ? null : await answer.json();
  if (!answer.ok) {
    throw new Error(said?.detail || "That did not work.");
  }
  return said;
}

function tell(error) {
  problem.textContent = error ? error.message : "";
  problem.hidden = !error;
}

function text(name, content, className) {
  const element = document.createElement(name);
  element.textContent = content;
  if (className) {
    element.className = className;
  }
  return element;
}

function row(token) {
  const what = text("div", "", "what");
  const used = token.last_used_at ? `last used ${moment(token.last_used_at)}` : "not used yet";
  what.append(text("strong", token.name), text("small", `${token.scopes.join(", ")} · ends ${day(token.expires_at)} · ${used}`));
  const revoke = text("button", "Revoke", "small plain");
  revoke.type = "button";
  revoke.setAttribute("aria-label", `Revoke ${token.name}`);
  revoke.addEventListener("click", async () => {
    revoke.disabled = true;
    try {
      await ask("DELETE", `${TOKENS}/${encodeURIComponent(token.id)}`);
      tell(null);
      await show();
    } catch (error) {
      revoke.disabled = false;
      tell(error);
    }
  });
  const item = document.createElement("li");
  item.append(what, revoke);
  return item;
}

async function show() {
  const page = await ask("GET", `${TOKENS}?limit=200`);
  const good = page.items.filter((token) => !token.revoked_at && new Date(token.expires_at) > new Date());
  list.replaceChildren(...good.map(row));
  list.hidden = good.length === 0;
}

form?.addEventListener("submit", async (event) => {
  event.preventDefault();
  const given = new FormData(form);
  const button = form.querySelector("button");
  button.disabled = true;
  try {
    const token = await ask("POST", TOKENS, {
      name: given.get("name"),
      scopes: given.getAll("scopes"),
      expires_in_days: Number(given.get("days")),
    });
    find("token-secret").textContent = token.token;
    made.hidden = false;
    form.elements.name.value = "";
    tell(null);
    await show();
  } catch (error) {
    tell(error);
  } finally {
    button.disabled = false;
  }
});

find("token-copy")?.addEventListener("click", async (event) => {
  try {
    await navigator.clipboard.writeText(find("token-secret").textContent);
    event.target.textContent = "Copied";
  } catch {
    getSelection().selectAllChildren(find("token-secret"));
  }
});

if (form) {
  // Services have none.
  try {
    await show();
    form.hidden = false;
  } catch (error) {
    tell(error);
  }
}
