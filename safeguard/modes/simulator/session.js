// What a person does to the machine: which causes are on, who pressed what, and how the body moves meanwhile.
const DATA = JSON.parse(document.getElementById("data").textContent);
const TABLES = new Map(DATA.tables.map(one => [one.strategy, one]));
const STOPPING_SHARE_PER_S = 4; // of full speed: what the pretended body gains or loses in a second

const session = {
  table: null, now: null, tick: 0, speed: 1, inputs: null, // of the last tick
  causes: new Map(), // bit -> ticks for which it stays on
  ackHeld: false, ackPending: false, person: false, ready: true, body: "auto", moving: 0,
  shadow: 0, available: 0, log: [], story: null, recording: null, cursor: 0,
};

function everyPart(table) {
  return (1 << table.names.length) - 1;
}

// Start anew with the table of a strategy, in BOOT or another mode, with everything as it should be.
function restart(table = session.table, mode = BOOT) {
  const parts = everyPart(table);
  const outputs = {mode, authority: table.authority[mode], envelope: table.envelope[mode], reasons: [],
    bridging: false, configuration: ""};
  Object.assign(session, {table, now: {state: initial(table, mode), outputs}, tick: 0, causes: new Map(),
    ackHeld: false, ackPending: false, person: false, ready: true, body: "auto", moving: mode === NOMINAL ? 1 : 0,
    shadow: parts, available: parts, log: [], story: null, recording: null});
  session.inputs = inputsNow();
}

function atRest() {
  return session.body === "auto" ? session.moving === 0 : session.body === "rest";
}

function inputsNow() {
  const {ackHeld, ackPending, ready, person, shadow, available} = session;
  let causes = 0;
  for (const bit of session.causes.keys()) causes |= 1 << bit;
  return {causes, ack: ackHeld || ackPending, standstill: atRest(), ready, person, shadow, available};
}

// One tick of the machine, or of the recorded run that is played. False: there is none left.
function makeTick() {
  if (session.recording) return showRecorded(session.cursor + 1);
  playStory();
  const before = session.now.outputs, inputs = inputsNow();
  const [state, outputs] = step(session.table, session.now.state, inputs);
  Object.assign(session, {now: {state, outputs}, inputs, ackPending: false});
  session.tick++;
  for (const [bit, left] of session.causes) if (left <= 1) session.causes.delete(bit); else session.causes.set(bit, left - 1);
  moveBody(outputs);
  note(before, outputs);
  return true;
}

// Not the robot: something that speeds up while the policy or a person has it and slows down while nobody has.
function moveBody({authority, envelope}) {
  const goal = authority === "policy" || authority === "operator" ? envelope[0] : 0;
  const most = STOPPING_SHARE_PER_S * session.table.period_ns / 1e9;
  const change = Math.max(-most, Math.min(most, goal - session.moving));
  session.moving = {auto: session.moving + change, moving: 1, rest: 0}[session.body];
  if (session.moving < 1e-9) session.moving = 0;
}

function note(before, outputs) {
  const last = session.log[0];
  if (outputs.mode !== before.mode || outputs.configuration !== before.configuration) {
    session.log.unshift({tick: session.tick, from: before, to: outputs});
  } else if (outputs.bridging) {
    if (last?.bridged && last.tick + last.bridged === session.tick) last.bridged++;
    else session.log.unshift({tick: session.tick, bridged: 1, reasons: outputs.reasons});
  }
  session.log.length = Math.min(session.log.length, 200);
}

function showRecorded(tick) {
  if (tick >= session.recording.length) return false;
  const {state, outputs, inputs} = session.recording.after(tick);
  const before = session.now.outputs;
  Object.assign(session, {cursor: tick, tick, now: {state, outputs}, inputs});
  note(before, outputs);
  return true;
}

// Stories: what happens when, in seconds from the start in NOMINAL. Each is there for one idea.
const LATE = "policy_late";
const STORIES = [
  {name: "One late answer", speed: 0.1, steps: [[0.1, "on", LATE], [0.16, "off", LATE]],
    says: "The backup stands in for a moment; the mode stays."},
  {name: "Late for good", speed: 0.1, steps: [[0.1, "on", LATE], [1.2, "off", LATE], [1.7, "ack"]],
    says: "When the time is up, the body is stopped, and a person has to acknowledge."},
  {name: "On and off", speed: 0.1, steps: Array.from({length: 40}, (_, k) => [0.1 + 0.02 * k, k % 2 ? "off" : "on", LATE]),
    says: "A cause that flaps is not forgiven: its bucket fills faster than it drains."},
  {name: "The planner fails", part: "planner", speed: 1,
    steps: [[0.5, "on", "planner_failed"], [3, "off", "planner_failed"]],
    says: "It is left out for a while, and comes back after it has proved itself."},
  {name: "Two parts fail", part: "planner", speed: 1,
    steps: [[0.5, "on", "prediction_failed"], [2, "on", "planner_failed"]],
    says: "Less is left, for a shorter time; then the body is stopped."},
  {name: "System 2 hangs", part: "system2", speed: 1,
    steps: [[0.5, "on", "system2_failed"], [6, "off", "system2_failed"], [7, "ack"]],
    says: "System 1 goes on alone on the last goal, but only for a while."},
  {name: "Emergency stop, and back", speed: 1, steps: [[0.5, "on", "estop"], [1.5, "off", "estop"], [2.5, "ack"], [3.2, "ack"]],
    says: "Two acknowledgements at rest: to HOLD, and from there to CAUTIOUS."},
  {name: "A body that does not stop", speed: 1, steps: [[0.4, "body", "moving"], [0.5, "on", "operator_stop"]],
    says: "A stop that does not come to rest becomes the next worse one."},
  {name: "Out of a corner by hand", speed: 1,
    steps: [[0.5, "on", "clock_backwards"], [1.2, "off", "clock_backwards"], [1.6, "person", true], [3.6, "person", false],
      [4.2, "ack"]],
    says: "In HOLD a person may jog the body, slowly and only away from what is near; then it rests, and goes on."},
];

function startStory(story) {
  restart(session.table, NOMINAL);
  Object.assign(session, {story: {...story, done: 0}, speed: story.speed});
}

function playStory() {
  const story = session.story;
  if (!story) return;
  const seconds = session.tick * session.table.period_ns / 1e9;
  while (story.done < story.steps.length && story.steps[story.done][0] <= seconds + 1e-9) {
    const [, what, name] = story.steps[story.done++];
    const bit = session.table.causes.findIndex(cause => cause.name === name);
    if (what === "on") session.causes.set(bit, Infinity);
    else if (what === "off") session.causes.delete(bit);
    else if (what === "ack") session.ackPending = true;
    else if (what === "person") session.person = name;
    else session.body = name;
  }
}
