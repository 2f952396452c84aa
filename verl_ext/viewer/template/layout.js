// Which tokens stand in which line. The page sets lines itself: only then is it known, without drawing them all, where
// every token of a long response stands.
const LINE = 25;
const SPARE = 3; // a token's padding and margin

const visible = (() => {
  const names = { "\n": "⏎", "\t": "⇥" };
  // Control characters; marks that turn the direction of text; characters without width.
  const hidden = /[\u0000-\u001f\u007f-\u009f\u00ad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff]/gu;
  const known = new Map();
  const name = (character) => {
    return names[character] ?? `‹U+${character.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}›`;
  };
  return (text) => {
    if (!known.has(text)) known.set(text, text === "" ? "∅" : text.replace(hidden, name));
    return known.get(text);
  };
})();

const LONGEST_SHOWN = 48;
const shown = (text) => {
  const whole = visible(text);
  return whole.length > LONGEST_SHOWN ? `${whole.slice(0, LONGEST_SHOWN - 1)}…` : whole;
};

const widthOf = (() => {
  const context = document.createElement("canvas").getContext("2d"), known = new Map();
  return (text, font) => {
    const key = `${font}|${text}`;
    if (!known.has(key)) { context.font = font; known.set(key, context.measureText(text).width); }
    return known.get(key);
  };
})();

// Room for the bar and the number of a segment.
const barWidth = (segment) => 8 + 6 * String(segment).length;
const startsSegment = (ids, i) => Boolean(ids) && ids[i] >= 0 && (i === 0 || ids[i] !== ids[i - 1]);

// The lines of a response: [first token, token behind the last].
function linesOf(row, values, width, font, borders) {
  const lines = [];
  let start = 0, x = 0, fence = 0;
  const widths = new Float32Array(row.tokens);
  // A line break by itself may stand in the margin.
  for (let i = 0; i < row.tokens; i++) {
    const text = textOf(values, i);
    widths[i] = widthOf(shown(text), font) + SPARE + (borders && startsSegment(values.segment_ids, i) ? barWidth(values.segment_ids[i]) : 0);
    if (/^\s/u.test(text) || /^[\p{Script=Han}\p{Script=Hiragana}\p{Script=Katakana}]/u.test(text)) fence = i;
    if (x + widths[i] > width && i > start && !/^\n+$/u.test(text)) {
      const next = fence > start ? fence : i; // words stay whole where they fit
      lines.push([start, next]);
      x = 0;
      for (let j = next; j < i; j++) x += widths[j];
      start = next;
    }
    x += widths[i];
    const breaks = (text.match(/\n/gu) ?? []).length;
    if (breaks) {
      lines.push([start, i + 1]);
      if (breaks > 1) lines.push([i + 1, i + 1]);
      start = i + 1; x = 0; fence = start;
    }
  }
  if (start < row.tokens) lines.push([start, row.tokens]);
  return lines;
}

// How many lines may stand in a window so that none ever holds more than `budget` tokens.
function linesWithin(lines, wanted, budget) {
  for (let count = wanted; count > 4; count = Math.floor(0.9 * count)) {
    let most = 0;
    for (let i = 0; i < lines.length; i++) most = Math.max(most, lines[Math.min(i + count, lines.length) - 1][1] - lines[i][0]);
    if (most <= budget) return count;
  }
  return 4;
}

function lineOf(lines, token) {
  let low = 0, high = lines.length - 1;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (lines[middle][1] <= token) low = middle + 1; else high = middle;
  }
  return low;
}
