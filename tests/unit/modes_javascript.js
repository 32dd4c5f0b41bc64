"use strict";
// node modes_javascript.js ENGINE TABLE answers ROWS OUT: every row of ROWS (int64: a state, causes, flags, shadow,
// available) through the engine's advance; OUT gets the next state and the report of each, int64 too.
// node modes_javascript.js ENGINE TABLE digests STATES INPUTS OUT: every state with every input; OUT gets one uint32 a
// state, over all its answers in order (FNV-1a over the low and the high half of each number).
const fs = require("fs");
const [enginePath, tablePath, what, ...paths] = process.argv.slice(2);
const {advance} = require(enginePath);
const table = JSON.parse(fs.readFileSync(tablePath, "utf-8"));

function read(path, width) {
  const bytes = fs.readFileSync(path);
  const flat = Array.from(new BigInt64Array(bytes.buffer, bytes.byteOffset, bytes.length / 8), Number);
  return Array.from({length: flat.length / width}, (_, row) => flat.slice(row * width, (row + 1) * width));
}

function answers(rows) {
  const wide = table.size + 5, found = new BigInt64Array(rows.length * wide);
  const after = new Array(table.size).fill(0), report = new Array(5).fill(0);
  rows.forEach((row, at) => {
    advance(row.slice(0, table.size), ...row.slice(table.size), table, after, report);
    [...after, ...report].forEach((value, place) => { found[at * wide + place] = BigInt(value); });
  });
  return found;
}

function digests(states, inputs) {
  const after = new Array(table.size).fill(0), report = new Array(5).fill(0);
  return Uint32Array.from(states, state => {
    let digest = 2166136261;
    const mix = value => {
      digest = Math.imul(digest ^ value % 4294967296, 16777619);
      digest = Math.imul(digest ^ value / 4294967296, 16777619);
    };
    for (const [causes, flags, shadow, available] of inputs) {
      advance(state, causes, flags, shadow, available, table, after, report);
      for (let k = 0; k < after.length; k++) mix(after[k]);
      for (let k = 0; k < 5; k++) mix(report[k]);
    }
    return digest >>> 0;
  });
}

const found = what === "answers" ? answers(read(paths[0], table.size + 4))
  : digests(read(paths[0], table.size), read(paths[1], 4));
fs.writeFileSync(paths.at(-1), Buffer.from(found.buffer));
