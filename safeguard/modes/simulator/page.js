// The page: what session.js knows, drawn; and what a person presses, told to it.
const $ = id => document.getElementById(id);
const GUARDS = [[READY, "READY"], [STANDSTILL, "STANDSTILL"], [CLEAR, "CLEAR"], [DRAINED, "DRAINED"], [PERSON, "PERSON"],
  [ACK, "ACK"]];
const CLICKS = {"until clicked": Infinity, "1 tick": 1, "0.1 s": 0.1};
let running = true, lasts = Infinity, meters = [];

function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

function put(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

function badge(mode) {
  const element = make("b", {className: "mode", textContent: mode});
  element.dataset.mode = mode;
  return element;
}

function seconds(ticks) {
  return ticks * session.table.period_ns / 1e9;
}

function time(ticks) {
  const value = seconds(ticks);
  return value < 10 ? value.toFixed(3).replace(/0$/, "") : value.toFixed(1);
}

function plain(name) {
  return name.replaceAll("_", " ");
}

// --- building: once for the page, or once for a strategy ---------------------------------------------------------

function choice(fieldset, options, chosen, change) {
  fieldset.querySelectorAll("label").forEach(label => label.remove());
  for (const [label, value] of options) {
    const input = make("input", {type: "radio", name: fieldset.id, value: String(value), checked: value === chosen});
    input.addEventListener("change", () => change(value));
    fieldset.append(make("label", {}, input, label));
  }
}

function buildStrategy() {
  const table = session.table;
  $("stories").replaceChildren(...STORIES.filter(({part}) => !part || table.names.includes(part)).map(story => {
    const button = make("button", {textContent: `▸ ${story.name}`});
    button.addEventListener("click", () => { startStory(story); running = true; chooseSpeed(); put($("tale"), story.says); draw(); });
    return button;
  }));
  buildCauses(table);
  $("parts").replaceChildren(...table.names.flatMap((name, part) => [
    make("h2", {textContent: `Part: ${plain(name)}`}),
    make("div", {className: "keys"}, toggle("Substitute is there", "available", part),
      ...(table.capabilities[part][1] ? [toggle("Agrees in shadow", "shadow", part)] : [])),
  ]));
  $("chain").replaceChildren(...[BOOT, NOMINAL, CAUTIOUS, DEGRADED, HOLD, STOP, ESTOP, LOCKOUT].map(mode => {
    const item = make("li", {textContent: MODES[mode], title: DATA.modes[MODES[mode]]});
    item.dataset.mode = MODES[mode];
    item.classList.toggle("gone", mode === DEGRADED && !table.names.length);
    return item;
  }));
  $("groups").replaceChildren(...authorityGroups(table).map(([authority, count]) =>
    make("span", {textContent: DATA.moves[authority], style: `grid-column: span ${count}`})));
  buildTimers(table);
  $("runs").replaceChildren(...DATA.runs.filter(run => run.strategy === table.strategy).map(run => {
    const button = make("button", {textContent: `▸ ${run.name}`});
    button.addEventListener("click", () => load(run));
    return button;
  }));
  put($("digest"), table.digest.slice(0, 12));
  put($("period"), `${table.period_ns / 1e6} ms`);
}

// [authority, for how many modes in a row] along the chain after BOOT.
function authorityGroups(table) {
  const groups = [];
  for (let mode = NOMINAL; mode <= LOCKOUT; mode++) {
    const authority = mode === DEGRADED && !table.names.length ? "policy" : table.authority[mode];
    if (groups.at(-1)?.[0] === authority) groups.at(-1)[1]++; else groups.push([authority, 1]);
  }
  return groups;
}

function toggle(label, what, part) {
  const button = make("button", {textContent: label});
  button.dataset.part = part;
  button.dataset.what = what;
  button.addEventListener("click", () => { session[what] ^= 1 << part; draw(); });
  return button;
}

function buildCauses(table) {
  const groups = [[NOMINAL, "is only recorded"], [CAUTIOUS, "at least"], [DEGRADED, "at least, without a part"],
    [HOLD, "at least"], [STOP, "at least"], [ESTOP, "at once"]];
  $("causes").replaceChildren(...groups.flatMap(([floor, words]) => {
    const chips = table.causes.map((cause, bit) => [cause, bit]).filter(([cause]) => cause.floor === MODES[floor]);
    if (!chips.length) return [];
    const group = make("div", {className: "chips"}, ...chips.map(([cause, bit]) => chip(table, cause, bit)));
    group.dataset.mode = MODES[floor];
    return [make("h3", {}, badge(MODES[floor]), words), group];
  }));
}

function chip(table, cause, bit) {
  const words = table.words[cause.row];
  const button = make("button", {textContent: plain(cause.name), title: `${cause.row}: ${words}`});
  button.dataset.cause = cause.name;
  button.dataset.bit = bit;
  const say = () => tell(`${cause.row}: ${words}.`
    + (cause.delay === "bridge" ? " Bridged: the backup stands in until its bucket is full." : "")
    + (cause.delay === "debounce" ? " Debounced: nothing changes until its bucket is full." : ""));
  button.addEventListener("pointerenter", say);
  button.addEventListener("focus", say);
  button.addEventListener("click", () => {
    const ticks = lasts === 0.1 ? Math.round(0.1e9 / table.period_ns) : lasts;
    if (session.causes.has(bit)) session.causes.delete(bit); else session.causes.set(bit, ticks);
    draw();
  });
  return button;
}

function tell(words) {
  put($("told"), words);
}

// Every bar: a title above the first of its kind, a label, and a function giving [value, full, text, mark].
function buildTimers(table) {
  const count = table.names.length, rowOf = mask => ids(table, mask)[0];
  const s = () => session.now.state.numbers, ticks = (value, full) => [value, full, `${time(value)} of ${time(full)} s`];
  const bars = [
    ["Of this mode", () => `quiet enough to leave ${MODES[s()[MODE]]}`, () => ticks(s()[CALM], table.recoveries[s()[MODE]][2])],
    ["", () => `moving although ${MODES[s()[MODE]]}`, () => ticks(s()[MOVING], Math.max(0, table.escalations[s()[MODE]][1]))],
    ["", () => "emergency stops before LOCKOUT", () => [s()[ESTOPS], table.numbers[BEYOND] + 1,
      `${s()[ESTOPS]} of ${table.numbers[BEYOND] + 1}`]],
  ];
  if (count) bars.push(["", () => "recoveries that time has not paid back", () => ticks(s()[CREDIT], table.numbers[WINDOW])]);
  for (let shed = 1; shed < table.configurations.length; shed++) {
    const [stay, , row] = table.configurations[shed], age = () => Math.min(...table.names.map((_, c) =>
      shed >> c & 1 ? s()[table.ages + c] : Infinity));
    if (stay) bars.push([shed === 1 ? "Of what is left out" : "", () => `${plain(table.degraded[shed][0])}: longest stay`,
      () => ticks(Math.min(age(), stay), stay), rowOf(row)]);
  }
  table.names.forEach((name, c) => bars.push(["", () => `${plain(name)}: fit to come back`,
    () => ticks(s()[table.ages + count + c], table.capabilities[c][2]), rowOf(table.capabilities[c][3])]));
  table.buckets.forEach(([mask, full, low], b) => bars.push([b ? "" : "Buckets: how much of a cause is too much (the line: low enough to acknowledge)",
    () => plain(table.causes.find((_, bit) => has(mask, bit)).name),
    () => [s()[BUCKETS + b], full, `${s()[BUCKETS + b]} of ${full}`, low / full], rowOf(mask)]));
  meters = bars.map(([title, label, value, row]) => {
    const meter = make("div", {className: "meter"}, make("span"), make("i"), make("small"));
    if (row) meter.dataset.row = row;
    return {title, label, value, meter};
  });
  $("timers").replaceChildren(...meters.flatMap(({title, meter}) => title ? [make("h3", {textContent: title}), meter] : [meter]));
}

// --- a recorded run ----------------------------------------------------------------------------------------------

function load(run) {
  try {
    const table = TABLES.get(run.strategy);
    if (!table) throw new Error(`${run.name ?? "this file"}: strategy ${run.strategy} is not on this page`);
    const recording = new Recording(run, table);
    restart(table);
    Object.assign(session, {recording, cursor: -1});
    start(table.strategy);
    recording.differs = recording.differing();
    drawLanes(recording);
    showRecorded(0);
    session.log = [];
    put($("problem"), "");
    $("played").hidden = false;
  } catch (error) {
    put($("problem"), error.message);
  }
  draw();
}

function drawLanes(recording) {
  const lane = (modeOf, y) => recording.stretches(modeOf).map(([mode, first, ticks]) =>
    `<rect data-mode="${MODES[mode]}" fill="var(--mode)" x="${first}" width="${ticks}" y="${y}" height="26"/>`).join("");
  const svg = document.querySelector("#lanes svg");
  svg.setAttribute("viewBox", `0 0 ${recording.length} 62`);
  svg.innerHTML = lane(tick => recording.find(tick).mode, 0) + lane(tick => recording.recomputed[tick], 32)
    + recording.differs.map(tick => `<rect fill="var(--bad)" x="${tick}" width="1" y="27" height="4"/>`).join("");
  $("scrub").max = recording.length - 1;
  put($("runname"), `Recorded run: ${recording.run.name}`);
  const many = recording.differs.length;
  put($("agreement"), many ? `The table decides otherwise in ${many} of ${recording.length} ticks, first in tick ${recording.differs[0]}.`
    : `The table decides as recorded in all ${recording.length} ticks.`);
  $("agreement").className = many ? "differs" : "agrees";
}

function drawRecorded(outputs) {
  const {recorded} = session.recording.after(session.cursor);
  $("scrub").value = session.cursor;
  put($("recorded"), `Tick ${session.cursor}: recorded ${MODES[recorded]}, recomputed ${MODES[outputs.mode]}.`);
}

// --- time and keys -----------------------------------------------------------------------------------------------

function chooseSpeed() {
  choice($("speeds"), [["×0.1", 0.1], ["real time", 1], ["×10", 10]], session.speed, value => {
    session.speed = value;
  });
}

function start(strategy) {
  if (!session.recording) restart(TABLES.get(strategy));
  for (const radio of $("strategies").querySelectorAll("input")) radio.checked = radio.value === strategy;
  $("played").hidden = !session.recording;
  buildStrategy();
  tell("Point at a cause to read what it means.");
  put($("tale"), "");
  put($("about"), session.table.about);
  draw();
}

function byHand(strategy = session.table.strategy) {
  session.recording = null;
  start(strategy);
}

let owed = 0, then = performance.now();
function frame(now) {
  const passed = Math.min(now - then, 100);
  then = now;
  if (running) {
    owed += passed * 1e6 * session.speed / session.table.period_ns;
    for (; owed >= 1; owed--) if (!makeTick()) running = false;
    draw();
  }
  requestAnimationFrame(frame);
}

function single() {
  running = false;
  makeTick();
  draw();
}

function hold(on) {
  session.ackHeld = on;
  if (on) session.ackPending = true;
  draw();
}

const ACTIONS = {
  run: () => {
    running = !running;
    if (running && session.recording && session.cursor + 1 >= session.recording.length) showRecorded(0);
    draw();
  },
  step: single,
  reset: () => {
    if (session.recording) showRecorded(0); else restart();
    session.log = [];
    put($("tale"), "");
    draw();
  },
  person: () => { session.person = !session.person; draw(); },
  ready: () => { session.ready = !session.ready; draw(); },
  forget: () => { session.log = []; draw(); },
  byhand: () => byHand(),
};
for (const [id, action] of Object.entries(ACTIONS)) $(id).addEventListener("click", action);
$("ack").addEventListener("pointerdown", () => hold(true));
for (const end of ["pointerup", "pointerleave", "pointercancel"]) $("ack").addEventListener(end, () => hold(false));
$("ack").addEventListener("click", event => { if (event.detail === 0) { session.ackPending = true; draw(); } });
$("scrub").addEventListener("input", event => { 
  running = false;
  showRecorded(+event.target.value);
  session.log = [];
  draw();
});

const KEYS = {" ": "run", ArrowRight: "step", r: "reset", a: "ack"};
addEventListener("keydown", event => {
  const typing = ["INPUT", "BUTTON"].includes(event.target.tagName);
  if (event.ctrlKey || event.metaKey || event.altKey || !KEYS[event.key] || typing && event.key.length !== 1
    || typing && event.key === " ") return;
  event.preventDefault();
  if (!(event.repeat && event.key !== "ArrowRight")) $(KEYS[event.key]).click();
});

async function open(file) {
  try {
    load(JSON.parse(await file.text()));
  } catch (error) {
    put($("problem"), `${file.name}: ${error.message}`);
  }
}
$("file").addEventListener("change", event => { if (event.target.files[0]) open(event.target.files[0]); });
for (const [kind, on] of [["dragover", true], ["dragleave", false], ["drop", false]]) {
  addEventListener(kind, event => { event.preventDefault(); document.body.classList.toggle("drop", on); });
}
addEventListener("drop", event => { if (event.dataTransfer.files[0]) open(event.dataTransfer.files[0]); });

choice($("strategies"), [...TABLES.keys()].map(name => [name, name]), TABLES.keys().next().value, byHand);
choice($("body"), [["by itself", "auto"], ["keeps moving", "moving"], ["at rest", "rest"]], "auto", value => {
  session.body = value;
  session.moving = {auto: session.moving, moving: 1, rest: 0}[value];
  draw();
});
choice($("press"), Object.entries(CLICKS), Infinity, value => { lasts = value; });
chooseSpeed();
start(TABLES.keys().next().value);
requestAnimationFrame(frame);
