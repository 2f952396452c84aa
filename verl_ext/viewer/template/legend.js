// What the colours mean: the scale with the distribution of the values above it, or one box a class.
const CLIPPED = [[1, "clipped above", 2], [0, "not clipped", 1], [-1, "clipped below", 0]];

function drawLegend(place, app) {
  const { painter } = app, { colouring } = painter;
  const name = make("div", { className: "legend-name" }, make("b", {}, colouring.label), make("span", { className: "quiet" }, colouring.unit));
  const about = make("div", { className: "quiet legend-about" }, colouring.about);
  place.replaceChildren(name, painter.scaled ? scaleLegend(app) : classLegend(app), about);
  if (painter.scaled) drawHistogram(place.querySelector("canvas"), painter);
}

function scaleLegend(app) {
  const { painter } = app, { low, high, least, greatest } = painter.colouring;
  const canvas = make("canvas", { className: "histogram" });
  const handles = ["from", "to"].map((end) => make("input", {
    type: "range", min: 0, max: 1, step: 0.005, className: end, value: painter.filter?.[end] ?? (end === "from" ? 0 : 1),
    title: "dims tokens outside the handles", "aria-label": end === "from" ? "least value that is not dimmed" : "greatest value that is not dimmed",
  }));
  const change = () => {
    const [from, to] = handles.map((handle) => Number(handle.value)).sort((a, b) => a - b);
    app.setFilter(from === 0 && to === 1 ? null : { from, to });
    drawHistogram(canvas, app.painter);
    note.textContent = range(app.painter);
  };
  for (const handle of handles) handle.addEventListener("input", change);
  const ends = (value, beyond, sign) => (beyond !== null && beyond !== undefined && sign * beyond > sign * value * (1 + 1e-6) + 1e-12 ? `${sign < 0 ? "≤" : "≥"} ${brief(value)}` : brief(value));
  const note = make("div", { className: "quiet range" }, range(painter));
  const ticks = make("div", { className: "ticks" },
    make("span", {}, ends(low, least, -1)), make("span", {}, brief((low + high) / 2)), make("span", {}, ends(high, greatest, 1)));
  return make("div", { className: "scale" }, make("div", { className: "strip" }, canvas, ...handles), ticks, note);
}

function range(painter) {
  const { low, high, least, greatest } = painter.colouring, at = (share) => brief(low + share * (high - low));
  if (painter.filter) return `kept: ${painter.filter.from > 0 ? at(painter.filter.from) : "lowest"} to ${painter.filter.to < 1 ? at(painter.filter.to) : "highest"}`;
  return least === null ? "no values" : `values from ${brief(least)} to ${brief(greatest)}`;
}

function drawHistogram(canvas, painter) {
  const { counts } = painter.colouring, width = canvas.width = canvas.clientWidth || 420, height = canvas.height = 40;
  const context = canvas.getContext("2d"), most = Math.max(1, ...counts), base = 12;
  for (let x = 0; x < width; x++) {
    const share = x / (width - 1), kept = !painter.filter || (share >= painter.filter.from && share <= painter.filter.to);
    context.globalAlpha = kept ? 1 : 0.18;
    context.fillStyle = painter.paints[Math.round(share * STEPS)].background;
    context.fillRect(x, height - base, 1, base);
  }
  // Roots: beside the many tokens at 0 the few others would not be seen.
  context.globalAlpha = 1;
  context.fillStyle = getComputedStyle(canvas).color;
  counts.forEach((count, bin) => {
    const tall = count ? Math.max(1, Math.sqrt(count / most) * (height - base - 3)) : 0, wide = width / counts.length;
    context.fillRect(bin * wide + 0.5, height - base - 2 - tall, wide - 1, tall);
  });
  context.strokeStyle = context.fillStyle;
  context.globalAlpha = 0.5;
  context.strokeRect(0.5, height - base + 0.5, width - 1, base - 1);
}

function classLegend(app) {
  const { painter } = app, { colouring } = painter;
  const total = colouring.counts?.reduce((sum, count) => sum + count, 0) || 1;
  const entries = painter.kind === "clipping"
    ? CLIPPED.map(([value, label, at]) => [value, `${label} ${(100 * colouring.counts[at] / total).toFixed(1)}%`])
    : Array.from({ length: Math.min(colouring.classes, painter.paints.length) }, (_, value) => [value, colouring.column === "group_ids" ? groupName(value, colouring.classes) : String(value)]);
  const boxes = entries.map(([value, label]) => {
    const on = painter.filter?.class === value;
    const box = make("button", { className: `class ${on ? "on" : ""}`, title: "dim the others" }, make("i", {}), label);
    const paint = painter.paint(value), swatch = box.firstChild;
    if (paint) swatch.style.backgroundColor = paint.background;
    if (painter.kind === "clipping" && value) swatch.classList.add(value > 0 ? "above" : "below");
    box.addEventListener("click", () => { app.setFilter(on ? null : { class: value }); drawLegend(app.legend, app); });
    return box;
  });
  const more = colouring.classes > painter.paints.length ? make("span", { className: "quiet" }, "… and so on, colours repeat") : null;
  return make("div", { className: "classes" }, ...boxes, more);
}

function groupName(group, count) {
  const ends = count < 2 ? {} : { 0: "lowest entropy", [count - 1]: "highest entropy" };
  return `group ${group}${ends[group] ? `, ${ends[group]}` : ""}`;
}
