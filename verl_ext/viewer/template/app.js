// What is chosen, and the parts of the page that depend on it.
const ITEM = 62; // height of a prompt in the list
const BLOCKS = "▁▂▃▄▅▆▇█";
const by = (id) => document.getElementById(id);

const app = {
  step: 0, prompt: 0, first: 0, columns: 2, borders: true, panels: [], filter: null, listed: [], search: "", outcome: "all",
  legend: by("legend"), card: by("card"), picked: null,
  theme: matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light",

  get steps() { return manifest.steps; },
  get prompts() { return this.steps[this.step].prompts; },
  get rows() { return this.prompts[this.prompt].rows; },

  // --- choosing
  setStep(number) {
    if (number < 0 || number >= this.steps.length) return;
    const uid = this.prompts[this.prompt].uid;
    this.step = number;
    this.prompt = Math.max(0, this.prompts.findIndex((prompt) => prompt.uid === uid));
    this.first = 0;
    by("step").value = number;
    drawFacts();
    listPrompts();
    this.setColouring(available(this.colouring) ? this.colouring : manifest.colourings.find(available), true);
    drawPrompt();
  },
  setPrompt(number) {
    if (number < 0 || number >= this.prompts.length) return;
    this.prompt = number;
    this.first = 0;
    drawPrompt();
  },
  setFirst(number) {
    if (number < 0 || number >= this.rows.length) return;
    this.first = number;
    drawGroup();
    drawPanels();
  },
  setColumns(count) {
    this.columns = count;
    by("columns").value = count;
    drawGroup();
    drawPanels();
  },
  setColouring(colouring, quietly = false) {
    if (!colouring || !available(colouring)) return;
    if (colouring !== this.colouring) this.filter = null;
    this.colouring = colouring;
    this.repaint();
    drawColourings();
    drawLegend(this.legend, this);
    if (!quietly) for (const panel of this.panels) panel.redraw();
  },
  setFilter(filter) {
    this.filter = filter;
    this.repaint();
    for (const panel of this.panels) panel.redraw();
  },
  setBorders(on) {
    this.borders = by("borders").checked = on;
    arrangePanels();
  },
  setTheme(theme) {
    this.theme = document.documentElement.dataset.theme = theme;
    this.repaint();
    drawLegend(this.legend, this);
    for (const panel of this.panels) panel.redraw();
  },
  repaint() { this.painter = new Painter(this.colouring, this.theme, this.filter); },

  // --- one token
  point(panel, token, element) { if (!this.picked) this.open(panel, token, element); },
  leave() { if (!this.picked) this.card.hidden = true; },
  pick(panel, token) {
    this.unpick();
    this.picked = { panel, token };
    panel.picked = token;
    panel.show(token, false);
    panel.redraw();
    this.open(panel, token, panel.sheet.querySelector(`[data-i="${token}"]`));
  },
  unpick() {
    if (this.picked) { this.picked.panel.picked = null; this.picked.panel.redraw(); }
    this.picked = null;
    this.card.hidden = true;
  },
  move(direction, kept) {
    const panel = this.picked?.panel ?? this.panels[0], from = this.picked?.token ?? -1;
    const to = kept ? panel.next(from, direction) : Math.min(panel.row.tokens - 1, Math.max(0, from + direction));
    if (to !== null) this.pick(panel, to);
  },
  open(panel, token, element) {
    fillCard(this.card, panel.row, panel.values, token);
    const box = element.getBoundingClientRect(), { offsetWidth: wide, offsetHeight: tall } = this.card;
    const below = box.bottom + 8 + tall < innerHeight;
    this.card.style.left = `${Math.max(8, Math.min(box.left, innerWidth - wide - 8))}px`;
    this.card.style.top = `${below ? box.bottom + 8 : Math.max(8, box.top - tall - 8)}px`;
    // Beside the token where there is room neither below nor above it.
    if (!below && box.top < tall + 16) this.card.style.left = `${box.right + wide + 16 < innerWidth ? box.right + 8 : Math.max(8, box.left - wide - 8)}px`;
  },
};

const available = (colouring) => colouring && colouring.columns.every((name) => app.prompts.some((prompt) => prompt.rows.some((row) => row.columns.includes(name))));

function drawFacts() {
  const { facts, left_out: rest } = app.steps[app.step];
  const texts = Object.entries(facts).map(([name, value]) => `${name}: ${value}`);
  if (rest) texts.push(`${rest} further prompts of this step are not in the page`);
  by("facts").textContent = texts.join("  ·  ");
  by("facts").title = texts.join("\n");
}

// --- prompts
const scores = (prompt) => prompt.rows.map((row) => row.score).filter((score) => score !== null);
const OUTCOMES = {
  all: ["all groups", () => true],
  differ: ["rewards differ", (prompt) => new Set(scores(prompt)).size > 1],
  equal: ["rewards all equal", (prompt) => new Set(scores(prompt)).size === 1],
  clipped: ["with clipped tokens", (prompt) => prompt.rows.some((row) => row.clipped_low || row.clipped_high)],
};

function spark(prompt) {
  const found = scores(prompt), low = Math.min(0, ...found), high = Math.max(...found, low + 1e-9);
  return prompt.rows.slice(0, 24).map(({ score }) => (score === null ? "·" : BLOCKS[Math.round(((score - low) / (high - low)) * 7)])).join("");
}

function listPrompts() {
  const wanted = app.search.toLowerCase(), test = OUTCOMES[app.outcome][1];
  app.listed = app.prompts.map((_, number) => number).filter((number) => {
    const prompt = app.prompts[number];
    return test(prompt) && (!wanted || (prompt.text ?? prompt.uid).toLowerCase().includes(wanted));
  });
  by("count").textContent = `${app.listed.length} of ${app.prompts.length} prompts`;
  by("prompts-inner").style.height = `${app.listed.length * ITEM}px`;
  drawList();
}

function drawList() {
  const list = by("prompts"), first = Math.max(0, Math.floor(list.scrollTop / ITEM) - 2), count = Math.ceil(list.clientHeight / ITEM) + 4;
  const items = app.listed.slice(first, first + count).map((number, at) => {
    const prompt = app.prompts[number], chosen = number === app.prompt;
    const item = make("button", { className: `item ${chosen ? "on" : ""}`, role: "option", "aria-selected": chosen, title: "j, k" },
      make("span", { className: "snippet" }, visible((prompt.text ?? prompt.uid).trim().slice(0, 120).replace(/\s+/gu, " "))),
      make("span", { className: "spark" }, spark(prompt)));
    item.dataset.number = number;
    item.style.top = `${(first + at) * ITEM}px`;
    item.addEventListener("click", () => app.setPrompt(number));
    return item;
  });
  by("prompts-inner").replaceChildren(...items);
}

function showListed() {
  const list = by("prompts"), top = app.listed.indexOf(app.prompt) * ITEM;
  if (top >= 0 && (top < list.scrollTop || top + ITEM > list.scrollTop + list.clientHeight)) list.scrollTop = top - list.clientHeight / 3;
  drawList();
}

// --- the prompt and its group
function drawPrompt() {
  const { text, uid, answer, source } = app.prompts[app.prompt];
  const facts = [`prompt ${app.prompt + 1}`, source, answer === null ? null : `expected answer: ${visible(answer)}`].filter(Boolean).join(" · ");
  const shownText = text === null ? "The export has no texts of prompts." : text.split("\n").map((line) => line && visible(line)).join("\n");
  by("prompt").replaceChildren(make("div", { className: "quiet", title: uid }, facts), make("p", { tabIndex: 0 }, shownText));
  showListed();
  drawGroup();
  drawPanels();
}

function drawGroup() {
  const found = scores(app.prompts[app.prompt]), low = Math.min(0, ...found), high = Math.max(...found, low + 1e-9);
  const mean = found.length ? found.reduce((sum, score) => sum + score, 0) / found.length : null;
  const last = Math.min(app.rows.length, app.first + app.columns);
  const bars = app.rows.slice(0, 128).map((row, number) => {
    const chosen = number >= app.first && number < last, fill = make("i", {});
    fill.style.height = `${row.score === null ? 0 : 4 + 30 * ((row.score - low) / (high - low))}px`;
    const bar = make("button", { className: `bar-of ${chosen ? "on" : ""}`, title: `response ${row.name}: reward ${brief(row.score)}, ${row.tokens} tokens` },
      make("span", { className: "column" }, fill), make("span", {}, brief(row.score)), make("small", { className: "quiet" }, row.name.replace(", update ", "·")));
    bar.dataset.number = number;
    bar.addEventListener("click", () => app.setFirst(number));
    return bar;
  });
  const note = `${new Set(app.rows.map((row) => row.key)).size} responses${mean === null ? "" : `, mean ${brief(mean)}`}`;
  by("group").replaceChildren(make("div", { className: "group-name" }, make("b", {}, "Rewards"), make("span", { className: "quiet" }, note)), make("div", { className: "bars" }, ...bars));
}

function drawPanels() {
  app.unpick();
  const rows = app.rows.slice(app.first, app.first + app.columns);
  app.panels = rows.map((row) => new Panel(app, row));
  by("panels").replaceChildren(...app.panels.map((panel) => panel.element));
  arrangePanels();
}

function arrangePanels() {
  const top = app.panels[0]?.body.getBoundingClientRect().top + scrollY;
  for (const panel of app.panels) panel.arrange(Math.max(240, innerHeight - top - 20), app.panels.length);
}

// --- colourings
function drawColourings() {
  const main = manifest.colourings.filter((colouring) => colouring.main);
  const buttons = main.map((colouring, at) => {
    const on = colouring === app.colouring, there = available(colouring);
    const button = make("button", { role: "radio", "aria-checked": on, disabled: !there, title: there ? `${colouring.about}  ${at + 1}` : colouring.missing }, colouring.label);
    button.dataset.colouring = colouring.column;
    button.addEventListener("click", () => app.setColouring(colouring));
    return button;
  });
  by("colourings").replaceChildren(...buttons);
  const lacking = main.filter((colouring) => !available(colouring));
  by("why").hidden = !lacking.length;
  by("why").textContent = lacking.map((colouring) => `${colouring.label}: ${colouring.missing}`).join("   ");
  const others = manifest.colourings.filter((colouring) => !colouring.main && available(colouring));
  by("more").hidden = !others.length;
  by("more").replaceChildren(make("option", { value: "" }, "more …"), ...others.map((colouring) => make("option", { value: colouring.column, selected: colouring === app.colouring }, colouring.label)));
}

// --- keys
const KEYS = {
  "[": () => app.setStep(app.step - 1), "]": () => app.setStep(app.step + 1),
  j: () => neighbour(1), k: () => neighbour(-1),
  h: () => app.setFirst(app.first - 1), l: () => app.setFirst(app.first + 1),
  ArrowLeft: () => app.move(-1, false), ArrowRight: () => app.move(1, false), n: () => app.move(1, true), p: () => app.move(-1, true),
  s: () => app.setBorders(!app.borders), c: () => app.setColumns((app.columns % 3) + 1),
  t: () => app.setTheme(app.theme === "dark" ? "light" : "dark"),
  "/": () => by("search").focus(), "?": () => by("help").showModal(), Escape: () => app.unpick(),
};

function neighbour(direction) {
  const at = app.listed.indexOf(app.prompt), next = app.listed[at < 0 ? 0 : at + direction];
  if (next !== undefined) app.setPrompt(next);
}

function pressed(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || by("help").open) return;
  if (event.target.matches("input, select, textarea")) {
    if (event.key === "Escape") event.target.blur();
    return;
  }
  const main = manifest.colourings.filter((colouring) => colouring.main)[Number(event.key) - 1];
  const act = main ? () => app.setColouring(main) : KEYS[event.key];
  if (!act) return;
  event.preventDefault();
  act();
}

function begin() {
  document.documentElement.dataset.theme = app.theme;
  by("step").replaceChildren(...app.steps.map(({ step }, number) => make("option", { value: number }, String(step))));
  by("outcome").replaceChildren(...Object.entries(OUTCOMES).map(([value, [label]]) => make("option", { value }, label)));
  by("step").addEventListener("change", (event) => app.setStep(Number(event.target.value)));
  by("step-back").addEventListener("click", KEYS["["]);
  by("step-on").addEventListener("click", KEYS["]"]);
  by("outcome").addEventListener("change", (event) => { app.outcome = event.target.value; by("prompts").scrollTop = 0; listPrompts(); });
  by("search").addEventListener("input", (event) => { app.search = event.target.value; by("prompts").scrollTop = 0; listPrompts(); });
  by("columns").addEventListener("change", (event) => app.setColumns(Number(event.target.value)));
  by("borders").addEventListener("change", (event) => app.setBorders(event.target.checked));
  by("more").addEventListener("change", (event) => app.setColouring(manifest.colourings.find((colouring) => colouring.column === event.target.value)));
  by("theme").addEventListener("click", KEYS.t);
  by("help-button").addEventListener("click", KEYS["?"]);
  by("prompts").addEventListener("scroll", drawList);
  addEventListener("keydown", pressed);
  addEventListener("resize", () => { arrangePanels(); drawLegend(app.legend, app); drawList(); });
  app.columns = innerWidth < 900 ? 1 : 2;
  by("columns").value = app.columns;
  app.colouring = manifest.colourings.find(available);
  app.setStep(0);
}

begin();
// For whoever drives the page from its console.
window.viewer = { app, manifest, valuesOf, textOf, exact, visible, SCALES, Painter, luminance, channels };
