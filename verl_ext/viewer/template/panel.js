// One response: heading, strip, and the lines that are in view. Nothing else of it is in the page.
const TOKENS_IN_VIEW = 1500; // of all panels together: two nodes each, of at most 5,000
const GAP = 14;

class Panel {
  constructor(app, row) {
    Object.assign(this, { app, row, lines: [], drawn: new Map(), values: valuesOf(row) });
    this.map = make("canvas", { className: "map", title: "the whole response; click to go there" });
    this.sheet = make("div", { className: "sheet" });
    this.body = make("div", { className: "body", tabIndex: 0 }, this.sheet);
    this.element = make("article", { className: "panel" }, this.heading(), this.map, this.body);
    this.body.addEventListener("scroll", () => this.draw());
    this.map.addEventListener("click", (event) => this.show(Math.floor((event.offsetX / this.map.clientWidth) * row.tokens)));
    const at = (event) => event.target.closest?.(".token");
    this.body.addEventListener("pointerover", (event) => { if (at(event)) app.point(this, Number(at(event).dataset.i), at(event)); });
    this.body.addEventListener("pointerleave", () => app.leave());
    this.body.addEventListener("click", (event) => (at(event) ? app.pick(this, Number(at(event).dataset.i)) : app.unpick()));
  }

  heading() {
    const { row } = this, percent = (share) => `${(100 * share).toFixed(1)}%`;
    const facts = [`${row.tokens} tokens`];
    if (typeof row.entropy === "number") facts.push(`entropy ${row.entropy.toPrecision(2)}`);
    if (typeof row.clipped_low === "number") facts.push(`clipped ▲${percent(row.clipped_high ?? 0)} ▼${percent(row.clipped_low)}`);
    const more = ["mini_batch", "rank"].filter((name) => name in row).map((name) => `${name.replace("_", "-")} ${row[name]}`);
    return make("div", { className: "head", title: [row.key, facts.join(", "), more.join(", "), row.extra].filter(Boolean).join("\n") },
      make("b", {}, `Response ${row.name}`),
      make("span", { className: "reward" }, row.score === null ? "no reward" : `reward ${brief(row.score)}`),
      make("span", { className: "quiet" }, facts.join(" · ")));
  }

  // Lines for the width that there is; `height` is what the window has room for.
  arrange(height, panels) {
    const font = getComputedStyle(this.sheet).font;
    this.lines = linesOf(this.row, this.values, this.body.clientWidth - 2 * GAP, font, this.app.borders);
    const fitting = Math.max(4, Math.floor((height - 2 * GAP) / LINE));
    this.inView = linesWithin(this.lines, fitting, Math.floor(TOKENS_IN_VIEW / panels));
    const rows = Math.min(this.inView, this.lines.length);
    this.body.style.height = `${rows * LINE + 2 * GAP}px`;
    this.sheet.style.height = `${this.lines.length * LINE}px`;
    this.redraw();
  }

  redraw() {
    for (const element of this.drawn.values()) element.remove();
    this.drawn.clear();
    this.draw();
  }

  draw() {
    const first = Math.max(0, Math.floor((this.body.scrollTop - GAP) / LINE));
    const last = Math.min(this.lines.length, first + this.inView + 1);
    for (const [line, element] of this.drawn) {
      if (line < first || line >= last) { element.remove(); this.drawn.delete(line); }
    }
    for (let line = first; line < last; line++) if (!this.drawn.has(line)) this.drawLine(line);
    const span = last ? [this.lines[first]?.[0] ?? 0, this.lines[last - 1][1]] : [0, 0];
    drawMap(this.map, this.row, this.values, this.app.painter, ...span);
  }

  drawLine(line) {
    const [from, to] = this.lines[line], { painter, borders } = this.app, element = make("div", { className: "line" });
    element.style.top = `${line * LINE}px`;
    for (let i = from; i < to; i++) element.append(tokenElement(this.values, i, painter, borders, this.picked));
    this.drawn.set(line, element);
    this.sheet.append(element);
  }

  // Scrolls so that a token is in view; its element.
  show(token, always = true) {
    const line = lineOf(this.lines, token), top = line * LINE, { scrollTop, clientHeight } = this.body;
    if (always || top < scrollTop || top + LINE + GAP > scrollTop + clientHeight) this.body.scrollTop = top - clientHeight / 3;
    this.draw();
    return this.sheet.querySelector(`[data-i="${token}"]`);
  }

  // The next token, in a direction, that the filter leaves as it is.
  next(from, direction) {
    for (let i = from + direction; i >= 0 && i < this.row.tokens; i += direction) {
      if (trained(this.values, i) && this.app.painter.keeps(this.app.painter.number(this.values, i))) return i;
    }
    return null;
  }
}
