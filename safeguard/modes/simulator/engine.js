"use strict";
// safeguard/modes/engine.py in JavaScript, function for function and name for name; tests compare every answer.
// A mask of rows has the causes in its low bits and may have up to 53: more than JavaScript's | and & can take. So what
// is masked with & is causes alone, other rows are added on top, and `joined` is the | of two masks of rows.

const [NOMINAL, CAUTIOUS, DEGRADED, HOLD, STOP, ESTOP, LOCKOUT, BOOT] = [0, 1, 2, 3, 4, 5, 6, 7];
const MODES = ["NOMINAL", "CAUTIOUS", "DEGRADED", "HOLD", "STOP", "ESTOP", "LOCKOUT", "BOOT"];
const [READY, ACK, STANDSTILL, CLEAR, DRAINED, PERSON] = [1, 2, 4, 8, 16, 32];

// Places in a state, in what advance reports, and in table.numbers.
const [MODE, ACKED, CALM, MOVING, ESTOPS, CREDIT, BUCKETS] = [0, 1, 2, 3, 4, 5, 6];
const [NEXT, WHY, ROWS, BRIDGING, SHED] = [0, 1, 2, 3, 4];
const [KNOWN, ESTOP_BIT, DELAYED, DEBOUNCED, FILL, DRAIN, LOCKOUT_CAUSES, BEYOND, LOCKOUT_ROW, WAIVED, TAKEOVER_FLOOR,
  TAKEOVER_ROW, COST, WINDOW, FLAPPING_ROW, JOG_ROW] = Array.from({length: 16}, (_, place) => place);

// New levels; [causes whose bucket is full, whether every bucket is low enough to re-arm].
function fill(s, causes, buckets, numbers, after) {
  let tripped = 0, drained = true;
  for (let b = 0; b < buckets.length; b++) {
    let level = s[BUCKETS + b];
    if (causes & buckets[b][0]) {
      level = Math.min(level + numbers[FILL], buckets[b][1]);
      if (level === buckets[b][1]) tripped |= buckets[b][0];
    } else {
      level = Math.max(level - numbers[DRAIN], 0);
    }
    after[BUCKETS + b] = level;
    if (level > buckets[b][2]) drained = false;
  }
  return [tripped, drained];
}

// The worst floor that an active cause asks for, `least` if none is worse.
function worstFloor(active, floors, least) {
  for (let mode = ESTOP; mode > least; mode--) if (active & floors[mode]) return mode;
  return least;
}

// [what is missing, what of it is fit to come back], with the ages and dwells of this tick.
function lostParts(s, causes, active, shadow, capabilities, start, after) {
  const count = capabilities.length;
  let lost = 0, ripe = 0;
  for (let c = 0; c < count; c++) {
    const age = s[start + c];
    let fit = 0;
    if (active & capabilities[c][0]) {
      lost |= 1 << c;
    } else if (age > 0) {
      lost |= 1 << c;
      if (!(causes & capabilities[c][0]) && (!capabilities[c][1] || shadow >> c & 1)) {
        fit = Math.min(s[start + count + c] + 1, capabilities[c][2]);
        if (fit >= capabilities[c][2]) ripe |= 1 << c;
      }
    }
    after[start + c] = lost >> c & 1 ? Math.min(age + 1, capabilities[c][4]) : 0;
    after[start + count + c] = fit;
  }
  return [lost, ripe];
}

// Whether the body may go on with `shed` missing, and if not the rows that say so.
function endured(shed, active, available, paid, floors, capabilities, configurations, numbers, start, after) {
  if (configurations[shed][0] === 0) return [false, active & floors[DEGRADED]];
  if (shed & ~available || active & configurations[shed][1]) {
    return [false, configurations[shed][2] + (active & configurations[shed][1])];
  }
  for (let less = 1; less <= shed; less++) {
    if (less & ~shed || configurations[less][0] === 0) continue;
    let least = configurations[less][0] + 1;
    for (let c = 0; c < capabilities.length; c++) if (less >> c & 1) least = Math.min(least, after[start + c]);
    if (least > configurations[less][0]) return [false, configurations[less][2]];
  }
  let reserved = paid;
  for (let c = 0; c < capabilities.length; c++) reserved += shed >> c & 1 ? numbers[COST] : 0;
  return [reserved <= numbers[WINDOW], numbers[FLAPPING_ROW]];
}

// Which capability comes back: the first without which the body could not do better, or -1.
function returning(lost, ripe, active, available, paid, floors, capabilities, configurations, numbers, start, after) {
  for (let c = 0; c < capabilities.length; c++) {
    const less = lost & ~(1 << c);
    if (ripe >> c & 1 && (less === 0 || endured(less, active, available, paid + numbers[COST], floors, capabilities,
      configurations, numbers, start, after)[0])) return c;
  }
  return -1;
}

// [mode that timers alone ask for, row that fired, calm, moving]. An escalation beats a recovery.
function timers(s, causes, flags, drained, escalations, recoveries) {
  const mode = s[MODE];
  let calm = 0, moving = 0;
  if (escalations[mode][0] >= 0 && !(flags & STANDSTILL)) {
    moving = s[MOVING] + 1;
    if (moving >= escalations[mode][1]) return [escalations[mode][0], escalations[mode][2], calm, moving];
  }
  if (recoveries[mode][0] >= 0) {
    let met = flags & (READY | STANDSTILL | PERSON);
    if (flags & ACK && !s[ACKED]) met |= ACK;
    if (!(causes & recoveries[mode][3])) met |= CLEAR;
    if (drained) met |= DRAINED;
    const missing = recoveries[mode][1] & ~met;
    if (!(missing & ~ACK)) {
      calm = Math.min(s[CALM] + 1, recoveries[mode][2]);
      if (!missing && calm >= recoveries[mode][2]) return [recoveries[mode][0], recoveries[mode][4], calm, moving];
    }
  }
  return [mode, 0, calm, moving];
}

// The causes that ask for `mode` or worse; in BOOT none counts.
function holding(mode, floors) {
  let found = 0;
  if (mode !== BOOT) for (let worse = Math.min(mode, ESTOP); worse <= ESTOP; worse++) found |= floors[worse];
  return found;
}

// One tick: fill `after`, the next state, and `report`. `s` and `after` are different arrays.
function advance(s, causes, flags, shadow, available, table, after, report) {
  const {floors, buckets, escalations, recoveries, capabilities, configurations, numbers} = table;
  const mode = s[MODE], person = (flags & PERSON) !== 0, start = BUCKETS + buckets.length;
  if (causes > numbers[KNOWN]) causes = causes % (numbers[KNOWN] + 1) | numbers[ESTOP_BIT];
  if (person) causes &= ~numbers[WAIVED];
  const [tripped, drained] = fill(s, causes, buckets, numbers, after);
  const active = causes & ~numbers[DELAYED] | tripped;
  let [target, row, calm, moving] = timers(s, causes, flags, drained, escalations, recoveries);
  const floor = worstFloor(active, floors, person ? numbers[TAKEOVER_FLOOR] : NOMINAL);
  let [lost, ripe] = lostParts(s, causes, active, shadow, capabilities, start, after);
  let credit = Math.max(s[CREDIT] - 1, 0);
  if (mode === DEGRADED && target < DEGRADED) lost = 0; // a person has taken over
  if (lost && target <= DEGRADED && floor <= DEGRADED) {
    [target, row] = [CAUTIOUS, 0];
    const back = returning(lost, ripe, active, available, credit, floors, capabilities, configurations, numbers, start,
      after);
    if (back >= 0) {
      [lost, row, credit] = [lost & ~(1 << back), capabilities[back][3], credit + numbers[COST]];
      after[start + back] = 0;
      after.fill(0, start + capabilities.length); // every other one begins to prove itself anew
    }
    if (lost) {
      const [fine, why] = endured(lost, active, available, credit, floors, capabilities, configurations, numbers, start,
        after);
      [target, row] = fine ? [DEGRADED, row] : [HOLD, why];
    }
  }
  if (floor > target) [target, row] = [floor, active & floors[floor] ? 0 : numbers[TAKEOVER_ROW]];
  let estops = s[ESTOPS];
  if (target === ESTOP && active & numbers[LOCKOUT_CAUSES] && mode !== ESTOP) {
    estops = Math.min(estops + 1, numbers[BEYOND] + 1);
    if (estops > numbers[BEYOND]) [target, row] = [LOCKOUT, numbers[LOCKOUT_ROW]];
  }
  if (target !== DEGRADED) {
    lost = 0;
    after.fill(0, start);
  }
  const asking = holding(target, floors);
  const bridging = causes & numbers[DELAYED] & ~numbers[DEBOUNCED] & ~tripped ? 1 : 0;
  const jog = person && target === HOLD && !(active & asking) && !bridging ? numbers[JOG_ROW] : 0;
  if (target !== mode) calm = 0;
  if (target !== mode || jog) moving = 0; // who jogs is meant to move
  [after[MODE], after[ACKED], after[CALM], after[MOVING]] = [target, flags & ACK ? 1 : 0, calm, moving];
  [after[ESTOPS], after[CREDIT]] = [estops, credit];
  [report[NEXT], report[BRIDGING], report[SHED]] = [target, bridging, lost];
  report[WHY] = joined(active & asking, row, numbers);
  report[ROWS] = joined(joined(causes & asking, row, numbers), jog, numbers);
}

// The | of two masks of rows: that of their causes, and that of the rows above.
function joined(one, other, numbers) {
  const causes = numbers[KNOWN] + 1;
  return (Math.floor(one / causes) | Math.floor(other / causes)) * causes + (one % causes | other % causes);
}

// Whether a mask of rows has a bit.
function has(mask, bit) {
  return Math.floor(mask / 2 ** bit) % 2 === 1;
}

// The same for a bit as the table has it: a mask of its own, 0 if there is none.
function hasRow(mask, row) {
  return row > 0 && Math.floor(mask / row) % 2 === 1;
}

// The row ids of a mask, causes first.
function ids(table, mask) {
  return table.rows.filter((_, bit) => has(mask, bit));
}

// BOOT, or another mode to start in, with empty buckets and everything there.
function initial(table, mode = BOOT, estops = 0) {
  const numbers = new Array(table.size).fill(0);
  [numbers[MODE], numbers[ACKED], numbers[ESTOPS]] = [mode, 1, estops];
  return {numbers, why: 0};
}

function flagsOf(inputs) {
  return (inputs.ack ? ACK : 0) | (inputs.standstill ? STANDSTILL : 0) | (inputs.ready ? READY : 0)
    | (inputs.person ? PERSON : 0);
}

// [next state, this tick's outputs]. `inputs.causes` is a mask, `shadow` and `available` masks of capabilities.
function step(table, state, inputs) {
  const after = new Array(table.size), report = new Array(5);
  advance(state.numbers, inputs.causes, flagsOf(inputs), inputs.shadow, inputs.available, table, after, report);
  const number = report[NEXT], shed = report[SHED];
  let why = report[WHY], rows = report[ROWS];
  if (number === state.numbers[MODE]) {
    why = joined(why, state.why, table.numbers);
    rows = joined(rows, why, table.numbers);
  }
  let authority = table.authority[number], envelope = table.envelope[number], configuration = "";
  if (shed) {
    const ages = table.capabilities.map((_, c) => after[table.ages + c]).filter((_, c) => shed >> c & 1);
    const [name, envelopes] = table.degraded[shed];
    configuration = name;
    envelope = envelopes[Math.min(Math.min(...ages), envelopes.length) - 1];
  }
  const bridging = report[BRIDGING] !== 0 && authority === "policy";
  if (hasRow(rows, table.numbers[JOG_ROW])) [authority, envelope] = ["operator", table.jog];
  if (bridging) authority = "backup";
  const outputs = {mode: number, authority, envelope, reasons: ids(table, rows), bridging, configuration};
  return [{numbers: after, why: number ? why : 0}, outputs];
}

if (typeof module !== "undefined") module.exports = {advance, step};
