// The manifest, and the responses, of which the last few are kept unpacked.
const ARRAYS = { float32: Float32Array, int8: Int8Array, int16: Int16Array, int32: Int32Array };
const KEPT = 12;

function bytesOf(text) {
  const raw = atob(text), bytes = new Uint8Array(raw.length);
  for (let i = 0; i < raw.length; i++) bytes[i] = raw.charCodeAt(i);
  return inflate(bytes);
}

const jsonOf = (bytes) => JSON.parse(new TextDecoder().decode(bytes));
const manifest = jsonOf(bytesOf(document.getElementById("manifest").textContent));
const blocks = [...document.querySelectorAll("script.block")];
const columnOf = Object.fromEntries(manifest.columns.map((column) => [column.name, column]));
const chunk = ([block, start, size]) => bytesOf(blocks[block].textContent.slice(start, start + size));
let texts = null;
const unpacked = new Map();

// The columns of a response, as typed arrays; `text` holds numbers of `texts`.
function valuesOf(row) {
  if (unpacked.has(row)) return unpacked.get(row);
  const buffer = chunk(row.at).buffer, found = {};
  let offset = 0;
  for (const name of row.columns) {
    const kind = ARRAYS[columnOf[name].type], end = offset + row.tokens * kind.BYTES_PER_ELEMENT;
    found[name] = new kind(buffer.slice(offset, end));
    offset = end;
  }
  if (unpacked.size >= KEPT) unpacked.delete(unpacked.keys().next().value);
  unpacked.set(row, found);
  return found;
}

// A token's text; without texts its id stands for it.
function textOf(values, i) {
  if (!values.text) return `#${values.responses[i]} `;
  texts ??= jsonOf(chunk(manifest.vocabulary));
  return texts[values.text[i]];
}

// The shortest decimals that give the same number in the column's type.
function exact(value, type) {
  if (!Number.isFinite(value)) return Number.isNaN(value) ? "NaN" : value > 0 ? "∞" : "−∞";
  if (Object.is(value, -0)) return "-0";
  if (type !== "float32") return String(value);
  for (let digits = 1; digits < 9; digits++) {
    const text = value.toPrecision(digits);
    if (Math.fround(Number(text)) === value) return String(Number(text));
  }
  return String(Number(value.toPrecision(9)));
}

// Three digits, for axes and headings.
function brief(value) {
  if (value === null || value === undefined) return "–";
  if (value === 0) return "0";
  const size = Math.abs(value);
  return size >= 1e4 || size < 1e-3 ? value.toExponential(1).replace("e+", "e") : String(Number(value.toPrecision(3)));
}
