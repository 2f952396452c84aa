// Raw deflate (RFC 1951), so that a response is there at once and in every browser: DecompressionStream answers later,
// and older browsers lack it.
const LENGTH_BASE = [3, 4, 5, 6, 7, 8, 9, 10, 11, 13, 15, 17, 19, 23, 27, 31, 35, 43, 51, 59, 67, 83, 99, 115, 131, 163, 195, 227, 258];
const LENGTH_BITS = [0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3, 4, 4, 4, 4, 5, 5, 5, 5, 0];
const DISTANCE_BASE = [1, 2, 3, 4, 5, 7, 9, 13, 17, 25, 33, 49, 65, 97, 129, 193, 257, 385, 513, 769, 1025, 1537, 2049, 3073, 4097, 6145, 8193, 12289, 16385, 24577];
const DISTANCE_BITS = [0, 0, 0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7, 8, 8, 9, 9, 10, 10, 11, 11, 12, 12, 13, 13];
const CODE_ORDER = [16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15];
const LONGEST = 15;

// For every LONGEST-bit look-ahead the symbol, and in the low four bits how many bits it takes.
function huffman(lengths) {
  const count = new Uint16Array(LONGEST + 1), next = new Uint16Array(LONGEST + 2);
  for (const length of lengths) count[length]++;
  count[0] = 0;
  const longest = Math.max(1, ...lengths);
  for (let bits = 1; bits <= LONGEST; bits++) next[bits + 1] = (next[bits] + count[bits]) << 1;
  const table = new Uint16Array(1 << longest);
  lengths.forEach((length, symbol) => {
    if (!length) return;
    let code = next[length]++, reversed = 0;
    for (let bit = 0; bit < length; bit++, code >>= 1) reversed = (reversed << 1) | (code & 1);
    for (let at = reversed; at < table.length; at += 1 << length) table[at] = (symbol << 4) | length;
  });
  return { table, mask: table.length - 1 };
}

const FIXED = {
  literals: huffman(Array.from({ length: 288 }, (_, i) => (i < 144 ? 8 : i < 256 ? 9 : i < 280 ? 7 : 8))),
  distances: huffman(Array(30).fill(5)),
};

function inflate(source) {
  let out = new Uint8Array(source.length * 4 + 256), size = 0, position = 0, buffer = 0, held = 0;
  const room = (more) => {
    if (size + more <= out.length) return;
    const larger = new Uint8Array(2 * (size + more));
    larger.set(out);
    out = larger;
  };
  const fill = (count) => {
    // Behind the end zeros stand, as a code is looked up with more bits than it may need.
    while (held < count) { buffer |= (source[position++] ?? 0) << held; held += 8; }
  };
  const bits = (count) => {
    fill(count);
    const value = buffer & ((1 << count) - 1);
    buffer >>>= count; held -= count;
    return value;
  };
  const symbol = ({ table, mask }) => {
    fill(LONGEST);
    const found = table[buffer & mask];
    buffer >>>= found & 15; held -= found & 15;
    return found >> 4;
  };
  const codes = () => {
    const literals = bits(5) + 257, distances = bits(5) + 1, given = bits(4) + 4, lengths = Array(19).fill(0);
    for (let i = 0; i < given; i++) lengths[CODE_ORDER[i]] = bits(3);
    const tree = huffman(lengths), all = [];
    while (all.length < literals + distances) {
      const code = symbol(tree);
      if (code < 16) all.push(code);
      else {
        const value = code === 16 ? all[all.length - 1] : 0;
        const times = code === 16 ? 3 + bits(2) : code === 17 ? 3 + bits(3) : 11 + bits(7);
        for (let i = 0; i < times; i++) all.push(value);
      }
    }
    return { literals: huffman(all.slice(0, literals)), distances: huffman(all.slice(literals)) };
  };
  for (let last = 0; !last;) {
    last = bits(1);
    const kind = bits(2);
    if (kind === 0) {
      position -= held >> 3; buffer = held = 0;
      const length = source[position] | (source[position + 1] << 8);
      room(length);
      out.set(source.subarray(position + 4, position + 4 + length), size);
      position += 4 + length; size += length;
      continue;
    }
    const trees = kind === 1 ? FIXED : codes();
    for (let code = symbol(trees.literals); code !== 256; code = symbol(trees.literals)) {
      if (position > source.length + 8) throw new Error("the page's data is cut off");
      if (code < 256) { room(1); out[size++] = code; continue; }
      const length = LENGTH_BASE[code - 257] + bits(LENGTH_BITS[code - 257]);
      const far = symbol(trees.distances), distance = DISTANCE_BASE[far] + bits(DISTANCE_BITS[far]);
      room(length);
      for (let i = 0; i < length; i++, size++) out[size] = out[size - distance];
    }
  }
  return out.slice(0, size);
}
