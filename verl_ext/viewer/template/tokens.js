// Elements made by hand: text always goes in as text, never as markup.
function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name in element) element[name] = value; else element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

const trained = (values, i) => !values.response_mask || values.response_mask[i] !== 0;

// One token.
function tokenElement(values, i, painter, borders, picked) {
  const element = make("span", { className: "token" }, shown(textOf(values, i)));
  element.dataset.i = i;
  if (borders && startsSegment(values.segment_ids, i)) {
    element.classList.add("starts");
    element.dataset.segment = values.segment_ids[i];
    element.style.setProperty("--bar", `${barWidth(values.segment_ids[i])}px`);
  }
  if (i === picked) element.classList.add("picked");
  if (!trained(values, i)) {
    element.classList.add("untrained");
    return element;
  }
  const value = painter.number(values, i), paint = painter.paint(value);
  if (paint) {
    element.style.backgroundColor = paint.background;
    element.style.color = paint.ink;
  }
  if (Number.isNaN(value)) element.classList.add("nan");
  if (painter.kind === "clipping" && value) element.classList.add(value > 0 ? "above" : "below");
  if (!painter.keeps(value)) element.classList.add("dimmed");
  return element;
}

// The whole response in one strip: each column of pixels takes the colour furthest from the middle of the scale.
function drawMap(canvas, row, values, painter, from, to) {
  const width = canvas.width = Math.max(1, canvas.clientWidth), height = canvas.height = 12;
  const context = canvas.getContext("2d");
  const centre = painter.kind === "diverging" ? 0.5 : 0;
  for (let x = 0; x < width; x++) {
    const first = Math.floor((x * row.tokens) / width), last = Math.max(first + 1, Math.floor(((x + 1) * row.tokens) / width));
    let best = null, distance = -1;
    for (let i = first; i < last && i < row.tokens; i++) {
      if (!trained(values, i)) continue;
      const value = painter.number(values, i);
      if (Number.isNaN(value) || !painter.keeps(value)) continue;
      const away = painter.scaled ? Math.abs(painter.share(value) - centre) : Math.abs(value);
      if (away > distance) { best = value; distance = away; }
    }
    const paint = best === null ? null : painter.paint(best);
    if (!paint) continue;
    context.fillStyle = paint.background;
    context.fillRect(x, 2, 1, height - 4);
  }
  context.strokeStyle = getComputedStyle(canvas).color;
  context.lineWidth = 1;
  const left = Math.round((from / row.tokens) * width), right = Math.round((to / row.tokens) * width);
  context.strokeRect(left + 0.5, 0.5, Math.max(4, right - left - 1), height - 1);
}

// All numbers of a token, exactly as the export has them.
function fillCard(card, row, values, i) {
  const rows = row.columns.filter((name) => name !== "text").map((name) => {
    const { label, unit, about, type } = columnOf[name];
    const line = make("tr", { title: about },
      make("td", {}, label), make("td", { className: "value" }, exact(values[name][i], type)), make("td", { className: "quiet" }, unit));
    line.dataset.column = name;
    return line;
  });
  card.replaceChildren(
    make("div", { className: "card-head" }, make("b", { className: "card-text" }, visible(textOf(values, i)).slice(0, 200)),
      make("span", { className: "quiet" }, `token ${i + 1} of ${row.tokens}`)),
    make("table", {}, make("tbody", {}, ...rows)));
  card.hidden = false;
}
