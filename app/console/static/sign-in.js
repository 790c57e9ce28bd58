// MLflow's pages keep their place behind "#", which browsers carry along and servers never see: carry it on.
const place = window.location.hash;
if (place.length > 1) {
  for (const link of document.querySelectorAll("a[data-provider]")) {
    const address = new URL(link.href);
    const next = address.searchParams.get("next") || "/";
    if (!next.includes("#")) {
      address.searchParams.set("next", next + place);
      link.href = address.href;
    }
  }
}
