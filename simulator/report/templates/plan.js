"use strict";
(() => {
  const result = JSON.parse(document.getElementById("result").textContent);
  const cells = result.cells, dark = matchMedia("(prefers-color-scheme: dark)"), narrow = () => innerWidth < 640;
  const still = { displayModeBar: false, responsive: true };
  const shown = new Set(cells.map((c) => c.cell));
  const $ = (id) => document.getElementById(id);
  // plotly takes markup and %{…} in its texts: names are text
  const plain = (text) => String(text).replace(/[&<>{}$]/g, (letter) => `&#${letter.charCodeAt(0)};`);
  const number = (v, digits) => v === null || v === undefined ? "–" : v.toLocaleString("en", { maximumFractionDigits: digits });
  const money = (v) => v === null ? "–" : v.toLocaleString("en", v >= 0.1 && v < 100 ? { minimumFractionDigits: 2, maximumFractionDigits: 2 } : { maximumSignificantDigits: 3 });
  let promised = $("tps") ? Number($("tps").value) : -1; // none where no speed is promised

  const ink = (name) => getComputedStyle(document.documentElement).getPropertyValue("--" + name).trim();
  const tint = (place) => ink("c" + (place % 7));
  const marks = ["circle", "square", "diamond", "triangle-up", "triangle-down", "cross", "x"];

  function layout(x, y, more) {
    const axis = { gridcolor: ink("grid"), zerolinecolor: ink("faint"), linecolor: ink("faint"), tickfont: { color: ink("muted") }, automargin: true, fixedrange: narrow() };
    return Object.assign({
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", font: { family: getComputedStyle(document.body).fontFamily, size: 13, color: ink("ink") },
      margin: { l: 8, r: 12, t: 12, b: 8 }, showlegend: false, hovermode: "closest",
      hoverlabel: { bgcolor: ink("raised"), bordercolor: ink("grid"), font: { color: ink("ink") }, align: "left" },
      xaxis: Object.assign({ title: { text: x, font: { color: ink("muted") } } }, axis),
      yaxis: Object.assign({ title: { text: y, font: { color: ink("muted") } } }, axis),
    }, more);
  }

  function hover(cell, p) {
    const m = p.metrics;
    return `<b>${plain(cell.label)}</b><br>${number(p.replicas)} replica${p.replicas === 1 ? "" : "s"}, ${number(p.gpus, 1)} GPU${p.gpus === 1 ? "" : "s"}<br>` +
      `${number(p.rps_per_replica, 2)} requests/s each, ${number(m.concurrency_mean.mean, 1)} in service<br>` +
      `${number(m.speed.mean, 1)} tok/s (lower bound ${number(p.sure_speed, 1)})<br>` +
      `TTFT ${m.ttft.mean === null ? "–" : number(m.ttft.mean * 1000, 0) + " ms"}<br>` +
      `accepted length ${number(m.accepted_length.mean, 2)}, budget ${number(m.verification_budget.mean, 2)}<br>` +
      `${money(p.cost_per_mtok)} ${plain(result.price.currency)} per million tokens<br>${plain(p.verdict)}, SLA ${plain(p.kept)}`;
  }

  function frontier() {
    if (!$("chart-frontier")) return;
    const traces = cells.map((cell, place) => {
      const points = cell.points.filter((p) => p.metrics.speed.mean > 0 && p.metrics.throughput_tok_s_gpu.mean !== null);
      return {
        type: "scatter", mode: "lines+markers", name: plain(cell.label), visible: shown.has(cell.cell),
        x: points.map((p) => p.metrics.speed.mean), y: points.map((p) => p.metrics.throughput_tok_s_gpu.mean),
        text: points.map((p) => hover(cell, p)), hovertemplate: "%{text}<extra></extra>",
        line: { color: tint(place), width: 2, dash: cell.bound ? "dash" : "solid" },
        marker: { size: 9, symbol: points.map((p) => marks[place % 7] + (p.verdict === "stable" ? "" : "-open")), color: tint(place), line: { width: 2, color: tint(place) } },
      };
    });
    const tps = promised < 0 ? 0 : result.by_promise[promised].tps;
    const line = { type: "line", x0: tps, x1: tps, yref: "paper", y0: 0, y1: 1, line: { color: ink("muted"), dash: "dot", width: 1.5 } };
    const note = { x: tps, y: 1, yref: "paper", text: "SLA", showarrow: false, xanchor: "left", yanchor: "top", font: { color: ink("muted"), size: 12 } };
    const share = number((result.sla.speed ? result.sla.speed.share : 0.9) * 100, 1);
    Plotly.react("chart-frontier", traces, layout(`tok/s that ${share} % of users reach`, "throughput, tok/s/GPU", promised < 0 ? {} : { shapes: [line], annotations: [note] }), still);
  }

  function whatIf() {
    if (!$("chart-what-if")) return;
    const rows = result.what_if.filter((m) => m.speed_change.mean !== null).sort((a, b) => Math.abs(a.speed_change.mean) - Math.abs(b.speed_change.mean));
    const name = (m) => `${plain(m.label)} [${m.replicas === null ? "–" : m.replicas}]`;
    const width = narrow() ? 20 : 60;
    const wrapped = (text) => text.split(" ").reduce((lines, word) => {
      const last = lines[lines.length - 1];
      if (last !== undefined && (last + " " + word).length <= width) lines[lines.length - 1] = last + " " + word; else lines.push(word);
      return lines;
    }, []).join("<br>");
    const bars = {
      type: "bar", orientation: "h", y: rows.map((m) => wrapped(name(m))), x: rows.map((m) => 100 * m.speed_change.mean),
      marker: { color: rows.map((m) => m.speed_change.mean >= 0 ? ink("c2") : ink("c1")) },
      error_x: { type: "data", symmetric: false, color: ink("muted"), thickness: 1.2, width: 3,
        array: rows.map((m) => m.speed_change.high === null ? 0 : 100 * (m.speed_change.high - m.speed_change.mean)),
        arrayminus: rows.map((m) => m.speed_change.low === null ? 0 : 100 * (m.speed_change.mean - m.speed_change.low)) },
      hovertemplate: "%{y}<br>%{x:+.1f} %<extra></extra>",
    };
    const chart = $("chart-what-if");
    chart.style.height = `${90 + rows.length * (narrow() ? 46 : 30)}px`;
    Plotly.react(chart, [bars], layout(narrow() ? "change of speed, %" : "change of the SLA speed, %", "", {}), still);
  }

  function day() {
    if (!$("chart-day")) return;
    const span = result.day, unit = span.span_s > 7200 ? 3600 : 60;
    const at = span.rate_rps.map((_, i) => i * span.slot_s / unit);
    const step = (values, name, color, dash) => ({ type: "scatter", mode: "lines", name, x: at, y: values, line: { shape: "hv", color, width: 2, dash }, hovertemplate: `${name}: %{y}<extra></extra>` });
    const rate = { type: "scatter", mode: "lines", name: "requests/s", x: at, y: span.rate_rps, yaxis: "y2", line: { color: ink("faint"), width: 1.2 }, hovertemplate: "%{y:.1f} requests/s<extra></extra>" };
    const traces = [rate, step(span.needed, "needed", tint(0)), step(span.paid, "started by forecast", tint(1)), step(at.map(() => span.fixed), "always on", ink("muted"), "dot")];
    const more = layout(unit === 3600 ? "hours" : "minutes", "replicas", { showlegend: true, legend: { orientation: "h", y: 1.02, yanchor: "bottom", x: 0 }, hovermode: "x unified" });
    more.yaxis.rangemode = "tozero";
    if (span.fixed <= 8) more.yaxis.dtick = 1;
    more.yaxis2 = Object.assign({}, more.yaxis, { title: { text: "requests/s", font: { color: ink("muted") } }, overlaying: "y", side: "right", showgrid: false, tickmode: "auto", dtick: null });
    Plotly.react("chart-day", traces, more, still);
  }

  function pays() {
    if (!$("chart-pays")) return;
    const several = result.break_even.length > 1, dashes = ["solid", "dash", "dot", "dashdot"];
    const traces = result.break_even.flatMap((b, which) => b.curves.map((c, place) => ({
      type: "scatter", mode: "lines+markers", name: `${Math.round(100 * c.acceptance)} %`, showlegend: which === 0, x: b.batch, y: c.gain.map((g) => 100 * g),
      text: c.best_length.map((k) => `k = ${k}`), hovertemplate: `${several ? plain(b.profile) + ", " : ""}acceptance ${Math.round(100 * c.acceptance)} %, %{x} requests: %{y:+.0f} % with %{text}<extra></extra>`,
      line: { color: tint(place), width: 2, dash: dashes[which % 4] }, marker: { color: tint(place), size: 6 },
    })));
    if (several) result.break_even.forEach((b, which) => traces.push({ // which dash is which profile
      type: "scatter", mode: "lines", name: plain(b.profile), x: [null], y: [null], hoverinfo: "skip", line: { color: ink("muted"), width: 2, dash: dashes[which % 4] },
    }));
    const more = layout("requests in a batch", "gain in speed, %", { showlegend: true, legend: { orientation: "h", y: 1.02, yanchor: "bottom", x: 0, font: { size: 11 }, title: { text: "acceptance", side: "top" } } });
    more.xaxis.type = "log";
    more.xaxis.tickvals = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024];
    Plotly.react("chart-pays", traces, more, still);
  }

  function promise() {
    document.querySelectorAll("[data-stop]").forEach((stop) => {
      stop.hidden = Number(stop.dataset.stop) !== promised;
      if (stop.hidden) return;
      $("tps-now").textContent = stop.dataset.value;
      $("tps").setAttribute("aria-valuetext", stop.dataset.value);
      $("tps-says").textContent = stop.dataset.says;
    });
  }

  function draw() { frontier(); whatIf(); day(); pays(); }

  if ($("tps")) $("tps").addEventListener("input", (event) => { promised = Number(event.target.value); promise(); frontier(); });
  document.querySelectorAll(".toggles input").forEach((box) => box.addEventListener("change", () => {
    const cell = Number(box.dataset.cell);
    if (box.checked) shown.add(cell); else shown.delete(cell);
    frontier();
  }));
  dark.addEventListener("change", draw);
  const paper = (on) => { document.documentElement.classList.toggle("paper", on); draw(); };
  addEventListener("beforeprint", () => paper(true));
  addEventListener("afterprint", () => paper(false));
  let wide = !narrow();
  addEventListener("resize", () => { if (wide === narrow()) { wide = !narrow(); draw(); } });
  promise();
  draw();
})();
