"use strict";
(() => { // a click on a column's title sorts by it: down, up, then as it was; groups go by their first row
  const value = (row, place) => {
    const text = (row.cells[place].firstChild?.textContent || "").trim() || row.cells[place].innerText.trim();
    const number = parseFloat(text.replaceAll(",", "").replace("−", "-").replace(/^[<>≤≥+]\s*/, ""));
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
  const near = 18; // pixels
  const show = (event) => { // the values of the nearest point of a picture, also where a finger taps
    const distance = (mark) => { const box = mark.getBoundingClientRect(); return Math.hypot(box.x + box.width / 2 - event.clientX, box.y + box.height / 2 - event.clientY); };
    const marks = [...event.currentTarget.querySelectorAll("[data-tip]")].map((mark) => [distance(mark), mark]).sort((a, b) => a[0] - b[0]);
    tip.hidden = !marks.length || marks[0][0] > near;
    if (tip.hidden) return;
    tip.textContent = marks[0][1].dataset.tip;
    tip.style.left = `${Math.max(8, Math.min(event.clientX + 14, innerWidth - tip.offsetWidth - 8))}px`;
    tip.style.top = `${Math.max(event.clientY - tip.offsetHeight - 12, 8)}px`;
  };
  for (const picture of document.querySelectorAll(".picture:has([data-tip])")) {
    for (const kind of ["pointermove", "pointerdown"]) picture.addEventListener(kind, show);
    picture.addEventListener("pointerleave", (event) => { tip.hidden = event.pointerType === "mouse" || tip.hidden; });
  }
  document.addEventListener("pointerdown", (event) => { if (!event.target.closest?.(".picture")) tip.hidden = true; });
})();
