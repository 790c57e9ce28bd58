// The console works without this: times as this person's clock shows them, and news of the promotion that is shown.

for (const time of document.querySelectorAll("time")) {
  time.title = time.textContent;
  time.textContent = new Date(time.dateTime).toLocaleString(undefined, {
    day: "numeric",
    month: "short",
    year: "numeric",
    hour: "2-digit",
    minute: "2-digit",
  });
}

const shown = document.getElementById("promotion");
const READING_MS = 3000;
const pause = (ms) => new Promise((done) => setTimeout(done, ms));

/** Whether somebody has begun to write a reason: then nothing is loaded anew under their hands. */
const isWriting = () => [...document.querySelectorAll("textarea, .decide input:not([type=hidden])")].some((each) => each.value !== each.defaultValue || each === document.activeElement);

function tell() {
  if (isWriting()) {
    document.getElementById("news").hidden = false;
  } else {
    // Not `reload`: after a form that was refused, that would send it once more.
    window.location.replace(shown.dataset.page);
  }
}

async function follow(address, seen) {
  for (;;) {
    const answer = await fetch(`${address}?wait=50`, {
      headers: { Accept: "application/json", "If-None-Match": `"${seen}"` },
    });
    if (answer.status === 503 || answer.status === 429) {
      await pause(10_000);
      continue;
    }
    if (!answer.ok || answer.headers.get("ETag") !== `"${seen}"`) {
      return tell();
    }
    if ((await answer.json()).settled) {
      return undefined;
    }
  }
}

if (shown?.dataset.reading === "yes") {
  await pause(READING_MS);
  tell();
} else if (shown?.dataset.settled === "no") {
  try {
    await follow(shown.dataset.address, shown.dataset.seen);
  } catch {
    // No network for a moment, or the page is left: it stays as it is, and loading it anew shows the rest.
  }
}
