// Colours told apart with any kind of colour vision: one hue from pale to dark, or blue against orange.
const SCALES = {
  light: {
    sequential: ["#ffffff", "#fdf0d0", "#fad08a", "#ec9a45", "#c0601a", "#7d3206"],
    diverging: ["#174a86", "#4f8fcb", "#b5d3ec", "#ffffff", "#fad9ae", "#e3893a", "#8f430b"],
    classes: ["#cfe3f6", "#fbd7aa", "#c9ead9", "#ecd8ee", "#f5eda9", "#d6dbe1", "#f8cdc3", "#bfe6f2"],
    clipping: ["#3f83c5", null, "#e58a38"],
  },
  dark: {
    sequential: ["#171c22", "#33291c", "#6b4417", "#b06d1a", "#eaa83a", "#ffe08f"],
    diverging: ["#a8d5ff", "#4695dc", "#20415f", "#171c22", "#4f3617", "#c27c22", "#ffd38d"],
    classes: ["#1f4468", "#6a4312", "#1c5442", "#57365d", "#5a5417", "#454d57", "#6e352a", "#14566a"],
    clipping: ["#3580c9", null, "#e6a03c"],
  },
};
// In order of preference: the first that stands out enough (WCAG's 4.5), which one of them always does.
const INKS = ["#14191f", "#ffffff", "#000000"];
const ENOUGH = 4.5;
const STEPS = 96;

const channels = (colour) => [1, 3, 5].map((at) => parseInt(colour.slice(at, at + 2), 16));
const css = (parts) => `rgb(${parts.map(Math.round).join(" ")})`;

function blend(stops, share) {
  const at = Math.min(share, 1) * (stops.length - 1), left = Math.min(Math.floor(at), stops.length - 2);
  const [a, b] = [channels(stops[left]), channels(stops[left + 1])];
  return a.map((value, i) => value + (b[i] - value) * (at - left));
}

// WCAG's relative luminance, 0 for black to 1 for white.
function luminance(parts) {
  const [r, g, b] = parts.map((value) => (value / 255 <= 0.04045 ? value / 255 / 12.92 : ((value / 255 + 0.055) / 1.055) ** 2.4));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
}

function inkOn(parts) {
  const under = luminance(parts);
  return INKS.find((ink) => {
    const over = luminance(channels(ink));
    return (Math.max(over, under) + 0.05) / (Math.min(over, under) + 0.05) >= ENOUGH;
  });
}

// How one colouring paints, in one theme, under one filter.
class Painter {
  constructor(colouring, theme, filter) {
    Object.assign(this, { colouring, filter, kind: colouring.kind });
    const stops = SCALES[theme][colouring.kind];
    const parts = this.scaled ? Array.from({ length: STEPS + 1 }, (_, i) => blend(stops, i / STEPS)) : stops.map((c) => c && channels(c));
    this.paints = parts.map((p) => p && { background: css(p), ink: inkOn(p) });
  }

  get scaled() { return this.kind === "sequential" || this.kind === "diverging"; }

  // The number that colour and filter go by: the value, the class, or -1, 0, 1 for clipped below, not, above.
  number(values, i) {
    if (this.kind === "clipping") return values.clipped_high[i] ? 1 : values.clipped_low[i] ? -1 : 0;
    return values[this.colouring.column][i];
  }

  share(value) {
    const { low, high } = this.colouring;
    return Math.min(1, Math.max(0, (value - low) / (high - low)));
  }

  // Index of the paint, undefined for NaN and for what has no class.
  index(value) {
    if (Number.isNaN(value)) return undefined;
    if (this.scaled) return Math.round(this.share(value) * STEPS);
    if (this.kind === "clipping") return value + 1;
    return value < 0 ? undefined : value % this.paints.length;
  }

  paint(value) { return this.paints[this.index(value)] ?? null; }

  // Whether the filter leaves the token as it is.
  keeps(value) {
    if (!this.filter) return true;
    if (this.filter.class !== undefined) return value === this.filter.class;
    const share = this.share(value);
    const within = share >= this.filter.from && share <= this.filter.to;
    return within && !Number.isNaN(value);
  }

  get narrowed() { return Boolean(this.filter); }
}
