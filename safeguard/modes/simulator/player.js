// A recorded run: what was seen in every tick, and what the table makes of it now.
// The JSON is safeguard.modes.simulate.RecordedRun; equal ticks may be written once with their count.
class Recording {
  constructor(run, table) {
    [this.run, this.table] = [run, table];
    this.bits = new Map(table.causes.map((cause, bit) => [cause.name, 1 << bit]));
    if (Math.round(run.period_s * 1e9) !== table.period_ns) {
      throw new Error(`${run.name}: its tick is ${run.period_s} s, this page's is ${table.period_ns / 1e9} s; `
        + `make the page for the run's tick`);
    }
    if (!Array.isArray(run.ticks) || !run.ticks.length) throw new Error(`${run.name}: there are no ticks in it`);
    this.length = 0;
    this.entries = run.ticks.map((ticks, place) => this.entry(ticks, place));
    this.recomputed = new Uint8Array(this.length);
    this.saved = [];
    let now = this.begin(run.estops || 0);
    for (let tick = 0; tick < this.length; tick++) {
      if (tick % 256 === 0) this.saved.push(now);
      now = this.next(now, tick);
      this.recomputed[tick] = now.outputs.mode;
    }
    [this.at, this.last] = [-1, null];
  }

  entry(ticks, place) {
    const causes = (ticks.causes || []).reduce((mask, name) => mask | this.bit(name, place), 0);
    const mode = MODES.indexOf(ticks.mode), start = ticks.start ? MODES.indexOf(ticks.start) : -1;
    if (mode < 0) throw new Error(`${this.run.name}: entry ${place}: ${ticks.mode} is no mode`);
    const first = this.length;
    this.length += ticks.count || 1;
    const inputs = {causes, ack: !!ticks.ack, standstill: !!ticks.standstill, ready: ticks.ready ?? true,
      person: !!ticks.person, shadow: this.parts(ticks.shadow, place), available: this.parts(ticks.available, place)};
    return {first, mode, start, inputs};
  }

  bit(name, place) {
    if (!this.bits.has(name)) throw new Error(`${this.run.name}: entry ${place}: ${name} is no cause`);
    return this.bits.get(name);
  }

  parts(names = [], place) {
    return names.reduce((mask, name) => {
      if (!this.table.names.includes(name)) throw new Error(`${this.run.name}: entry ${place}: ${name} is no part`);
      return mask | 1 << this.table.names.indexOf(name);
    }, 0);
  }

  begin(estops) {
    return {state: initial(this.table, BOOT, estops), outputs: null};
  }

  // The entry that a tick belongs to.
  find(tick) {
    let low = 0, high = this.entries.length - 1;
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (this.entries[middle].first <= tick) low = middle; else high = middle - 1;
    }
    return this.entries[low];
  }

  next(now, tick) {
    const entry = this.find(tick);
    let state = now.state;
    if (entry.start >= 0 && entry.first === tick) state = initial(this.table, entry.start, state.numbers[ESTOPS]);
    const [after, outputs] = step(this.table, state, entry.inputs);
    return {state: after, outputs};
  }

  // State, outputs, inputs and recorded mode after a tick.
  after(tick) {
    if (this.at > tick || this.at < tick - (tick % 256)) {
      [this.at, this.last] = [tick - tick % 256 - 1, this.saved[Math.floor(tick / 256)]];
    }
    while (this.at < tick) this.last = this.next(this.last, ++this.at);
    const entry = this.find(tick);
    return {...this.last, inputs: entry.inputs, recorded: entry.mode};
  }

  // Ticks whose recorded and recomputed modes differ.
  differing() {
    const found = [];
    for (let tick = 0; tick < this.length; tick++) {
      if (this.find(tick).mode !== this.recomputed[tick]) found.push(tick);
    }
    return found;
  }

  // [mode, first tick, ticks] of every stretch of one mode.
  stretches(modeOf) {
    const found = [];
    for (let tick = 0; tick < this.length; tick++) {
      const mode = modeOf(tick), last = found.at(-1);
      if (last && last[0] === mode) last[2]++; else found.push([mode, tick, 1]);
    }
    return found;
  }
}
