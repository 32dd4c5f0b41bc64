// Drawing: many times a second, and only what changed.
function draw() {
  const {table, now: {state, outputs}, inputs} = session, mode = MODES[outputs.mode];
  $("now").dataset.mode = $("pill").dataset.mode = mode;
  put($("mode"), mode);
  put($("pill"), mode);
  put($("says"), outputs.bridging ? "The backup stands in until the policy is back or its time is up."
    : outputs.authority === "operator" ? "Nothing asks for HOLD any more: a person may jog the body." : DATA.modes[mode]);
  put($("clock"), `${seconds(session.tick).toFixed(3)} s · tick ${session.tick}`);
  drawFacts(outputs);
  document.querySelectorAll("#chain li").forEach(item => {
    item.classList.toggle("here", item.dataset.mode === mode);
    item.toggleAttribute("aria-current", item.dataset.mode === mode);
  });
  list($("reasons"), outputs.reasons.map(row => ({row, text: table.words[row]})), "Nothing asks for anything worse.");
  drawBack(table, state.numbers, inputs, outputs.mode);
  for (const {label, value, meter} of meters) drawMeter(meter, label(), ...value());
  drawInputs(table, state.numbers);
  drawLog();
  if (session.recording) drawRecorded(outputs);
}

function drawFacts({authority, envelope, bridging, configuration}) {
  put($("authority"), DATA.authorities[authority] + (bridging ? " (it stands in)" : ""));
  const jogs = authority === "operator", moves = authority === "policy" || jogs;
  put($("envelope"), moves ? `${Math.round(100 * envelope[0])} % of the speed limits${jogs ? ", away from what is near" : ""}`
    : authority === "backup" ? "as the stop needs" : "not at all");
  const {table, now: {state}} = session;
  const gone = table.names.filter((_, c) => configuration && state.numbers[table.ages + c]);
  put($("configuration"), gone.length ? gone.map(plain).join(", ") : "nothing");
}

function list(element, items, otherwise) {
  const key = JSON.stringify(items);
  if (element.dataset.key === key) return;
  element.dataset.key = key;
  element.replaceChildren(...(items.length ? items : [{text: otherwise, plain: true}]).map(({row, text, met, plain}) => {
    const item = make("li", {}, ...(row ? [make("span", {className: "id", textContent: row})] : []), text);
    item.classList.toggle("met", met === true);
    item.classList.toggle("plain", plain === true);
    if (row) item.dataset.row = row;
    return item;
  }));
}

// The guards of the way out of this mode, and which of them hold.
function drawBack(table, s, inputs, mode) {
  const [target, guards, dwell, blocking] = table.recoveries[mode];
  const items = [];
  let ready = false;
  if (mode === DEGRADED) {
    table.names.forEach((name, c) => { if (s[table.ages + c]) items.push(...partBack(table, s, inputs, name, c)); });
    items.push({text: `or ${DATA.guards.PERSON}`, met: inputs.person});
  } else if (target >= 0) {
    const causes = inputs.person ? inputs.causes & ~table.numbers[WAIVED] : inputs.causes;
    const drained = table.buckets.every(([, , low], b) => s[BUCKETS + b] <= low);
    const holds = {READY: inputs.ready, STANDSTILL: inputs.standstill, CLEAR: !(causes & blocking), DRAINED: drained,
      PERSON: inputs.person, ACK: false};
    const asked = GUARDS.filter(([bit]) => guards & bit);
    if (dwell) asked.splice(asked.findIndex(([bit]) => bit === ACK) + 1 ? -1 : asked.length, 0, [0, "DWELL"]);
    holds.DWELL = s[CALM] >= dwell;
    const words = {...DATA.guards, CLEAR: `nothing asks for ${mode >= HOLD ? "HOLD" : MODES[mode]} or worse`,
      DWELL: `all this for ${time(dwell)} s`};
    items.push(...asked.map(([, name]) => ({text: words[name], met: holds[name]})));
    ready = (guards & ACK) !== 0 && asked.every(([, name]) => name === "ACK" || holds[name]);
  }
  put($("backto"), target >= 0 || mode === DEGRADED ? `Way back to ${MODES[mode === DEGRADED ? CAUTIOUS : target]}` : "Way back");
  list($("back"), items, mode === NOMINAL ? "There is nothing to come back from." : "None: only maintenance helps.");
  $("ack").classList.toggle("waits", session.recording === null && (session.ackPending || ready));
}

function partBack(table, s, inputs, name, c) {
  const [sheds, shadow, dwell] = table.capabilities[c];
  return [
    {text: `${plain(name)}: nothing wrong`, met: !(inputs.causes & sheds)},
    ...(shadow ? [{text: `${plain(name)}: agrees with its substitute`, met: (inputs.shadow >> c & 1) === 1}] : []),
    {text: `${plain(name)}: so for ${time(dwell)} s`, met: s[table.ages + table.names.length + c] >= dwell},
  ];
}

function drawMeter(meter, label, value, full, text, mark) {
  const [span, bar, small] = meter.children;
  meter.hidden = full <= 0;
  put(span, label);
  put(small, text);
  bar.style.setProperty("--share", full > 0 ? Math.min(1, value / full) : 0);
  if (mark !== undefined) bar.style.setProperty("--mark", mark);
  meter.classList.toggle("idle", value === 0);
  meter.classList.toggle("full", full > 0 && value >= full && mark !== undefined);
}

function drawInputs(table, s) {
  const byHand = session.recording === null, inputs = byHand ? inputsNow() : session.inputs;
  const share = new Map(table.buckets.map(([mask, full], b) => [mask, s[BUCKETS + b] / full]));
  for (const button of $("causes").querySelectorAll("button")) {
    const mask = 1 << button.dataset.bit;
    press(button, (inputs.causes & mask) !== 0, byHand);
    button.style.setProperty("--share", share.get(mask) ?? 0);
    button.classList.toggle("waived", inputs.person && (mask & table.numbers[WAIVED]) !== 0);
  }
  for (const button of $("parts").querySelectorAll("button")) {
    press(button, (inputs[button.dataset.what] >> button.dataset.part & 1) === 1, byHand);
  }
  press($("person"), inputs.person, byHand);
  press($("ready"), inputs.ready, byHand);
  $("ack").disabled = $("body").disabled = !byHand;
  for (const radio of $("body").querySelectorAll("input")) radio.checked = radio.value === session.body;
  drawMeter($("speed"), "speed", byHand ? session.moving : +!inputs.standstill, 1,
    inputs.standstill ? "at rest" : byHand ? `${Math.round(100 * session.moving)} %` : "moving");
  put($("run"), running ? "Pause" : "Run");
}

function press(button, on, enabled) {
  if (button.getAttribute("aria-pressed") !== String(on)) button.setAttribute("aria-pressed", on);
  button.disabled = !enabled;
}

function drawLog() {
  const key = session.log.map(one => `${one.tick}.${one.bridged ?? ""}`).join();
  if ($("log").dataset.key === key) return;
  $("log").dataset.key = key;
  if (!session.log.length) $("log").replaceChildren(make("li", {className: "note", textContent: "Nothing yet."}));
  else $("log").replaceChildren(...session.log.map(one => {
    const words = (one.bridged ? one.reasons : one.to.reasons).map(row => `${row} ${session.table.words[row]}`).join("; ");
    const what = one.bridged
      ? make("p", {}, `The backup stood in for ${one.bridged} tick${one.bridged > 1 ? "s" : ""}`)
      : make("p", {}, badge(MODES[one.from.mode]), " → ", badge(MODES[one.to.mode]),
        one.to.configuration ? ` ${plain(one.to.configuration)}` : "");
    return make("li", {}, make("time", {textContent: `${seconds(one.tick).toFixed(3)} s · ${one.tick}`}),
      make("div", {}, what, make("span", {className: "note", textContent: words})));
  }));
}

