// In MLflow's own pages: the way to one's account here, where one signs out. MLflow has no place for it.

async function nameOf() {
  const answer = await fetch("/control/v1/me", { headers: { Accept: "application/json" } });
  return answer.ok ? (await answer.json()).name : null;
}

const name = await nameOf();
if (name) {
  const link = document.createElement("a");
  link.href = "/auth/account";
  link.id = "countersign-account";
  link.title = `${name}: account, tokens, sign out`;
  link.setAttribute("aria-label", `Signed in as ${name}: account, tokens, sign out`);
  link.textContent = [...name][0].toUpperCase();
  Object.assign(link.style, {
    position: "fixed",
    left: "12px",
    bottom: "88px",
    zIndex: "1000",
    width: "32px",
    height: "32px",
    borderRadius: "50%",
    background: "#3450c8",
    color: "#fff",
    font: "600 14px/32px system-ui, sans-serif",
    textAlign: "center",
    textDecoration: "none",
    boxShadow: "0 1px 4px rgb(16 24 40 / 0.3)",
  });
  document.body.append(link);
}
