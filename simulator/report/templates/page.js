"use strict";
(() => { // a click on a column's title sorts by it: down, up, then as it was; groups go by their first row
  const value = (row, place) => {
    const text = (row.cells[place].firstChild?.textContent || "").trim() || row.cells[place].innerText.trim();
    const number = parseFloat(text.replaceAll(",", "").replace("−", "-").replace(/^[≤≥+]\s*/, ""));
    return Number.isNaN(number) ? (/^–?$/.test(text) ? null : text) : number;
  };
  const compare = (a, b, up) => {
    if (a === null || b === null) return (a === null) - (b === null);
    const order = typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b), "en", { numeric: true });
    return up ? order : -order;
  };
  for (const table of document.querySelectorAll(".scroll table")) {
    const bodies = [...table.tBodies], rows = new Map(bodies.map((body) => [body, [...body.rows].filter((row) => row.className !== "group")]));
    if (bodies.reduce((sum, body) => sum + rows.get(body).length, 0) < 3) continue;
    const heads = [...table.tHead.rows[0].cells];
    heads.forEach((head, place) => {
      const button = document.createElement("button");
      button.append(...head.childNodes);
      head.append(button);
      button.title = "Sort by this column";
      button.addEventListener("click", () => {
        const next = { descending: "ascending", ascending: null }[head.getAttribute("aria-sort")], order = next === undefined ? "descending" : next;
        heads.forEach((other) => other.removeAttribute("aria-sort"));
        if (order) head.setAttribute("aria-sort", order);
        const sorted = (items, of) => order ? [...items].sort((a, b) => compare(of(a), of(b), order === "ascending")) : items;
        const placed = new Map(bodies.map((body) => [body, sorted(rows.get(body), (row) => value(row, place))]));
        for (const body of sorted(bodies, (body) => value(placed.get(body)[0], place))) {
          body.append(...placed.get(body));
          table.append(body);
        }
      });
    });
  }
  const tip = document.body.appendChild(Object.assign(document.createElement("div"), { className: "tip", hidden: true }));
  const show = (event) => { // values of a point in a picture, at once and also where a finger taps
    const text = event.target.closest?.("g[data-tip]")?.dataset.tip;
    tip.hidden = !text;
    if (!text) return;
    tip.textContent = text;
    tip.style.left = `${Math.min(event.clientX + 14, innerWidth - tip.offsetWidth - 8)}px`;
    tip.style.top = `${Math.max(event.clientY - tip.offsetHeight - 12, 8)}px`;
  };
  for (const picture of document.querySelectorAll(".picture")) for (const kind of ["pointermove", "pointerdown"]) picture.addEventListener(kind, show);
  document.addEventListener("pointerdown", (event) => { if (!event.target.closest?.(".picture")) tip.hidden = true; });
  document.querySelectorAll(".picture").forEach((picture) => picture.addEventListener("pointerleave", () => { tip.hidden = true; }));
})();
