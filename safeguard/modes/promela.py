"""A mode table as a Promela model: machine, environment and assertions in one text that spin checks."""

from __future__ import annotations

from collections.abc import Iterable

from safeguard.core.enums import Cause, Mode
from safeguard.modes.promela_machine import WHO, Machine
from safeguard.modes.promela_watch import Watch
from safeguard.modes.requirements import Bounds
from safeguard.modes.spec import TableSpec


def promela(spec: TableSpec, causes: tuple[Cause, ...], owed: Bounds | None = None, *, census: bool = False) -> str:
    """A model in which any of ``causes`` and every other input come and go at will, tick by tick.

    ``owed`` adds observers and one assertion for each of ``promela_watch.PROPERTIES``. With ``census`` the verifier
    prints every reached state once, and in the end the number of transitions and a checksum over all of them.
    Raises ModeTableError where a time is not in ticks: scale the table with ``requirements.abstract`` first.
    """
    machine = Machine(spec, causes)
    watch = Watch(machine, owed) if owed is not None else None
    parts = [
        f"/* {spec.strategy}: one pass of the loop is one tick. Written from the rows of the table, by row id. */",
        *(f"#define {mode.name} {mode.value}" for mode in Mode),
        *(f"#define {who} {i}" for i, who in enumerate(WHO.values())),
        *machine.variables(),
        *(watch.variables() if watch else ()),
        _census(machine) if census else _SEEN,
        "inline any(input) { if :: input = false :: input = true fi }",
        "active proctype machine() {",
        "  do",
        "  :: atomic {",
        "      c_code { seen(); };",
        *(f"      any({name});" for name in machine.inputs()),
        *(("      c_code { begin(); };",) if census else ()),
        "      d_step {",
        *_indented(machine.tick()),
        *_indented(watch.judge() if watch else ()),
        *(("        c_code { end(); };",) if census else ()),
        "        skip",
        "      }",
        "    }",
        "  od",
        "}",
    ]
    return "\n".join(parts) + "\n"


def _indented(lines: Iterable[str]) -> list[str]:
    return [f"        {line}" for line in lines]


# Spin runs what follows once for every state that it has not seen before.
_SEEN = r"""c_code {
  static unsigned modes;
  void seen(void) {
    if (modes >> now.mode & 1) return;
    modes |= 1u << now.mode;
    printf("mode %d\n", now.mode);
  }
}"""

_CENSUS = r"""c_code {
  typedef unsigned long long word;
  static word from, edges, sum;
  static int once;
  static void report(void) { printf("census %llu %llu\n", edges, sum); }
  static word hash(void) {
    word memory[] = { MEMORY }, found = 0xcbf29ce484222325ull;
    for (int i = 0; i < COUNT; i++) found = (found ^ memory[i]) * 0x100000001b3ull;
    return found;
  }
  void seen(void) {
    int memory[] = { MEMORY };
    if (!once++) atexit(report);
    printf("state");
    for (int i = 0; i < COUNT; i++) printf(" %d", memory[i]);
    putchar('\n');
  }
  void begin(void) { from = hash(); }
  void end(void) {
    word chosen = CHOSEN;
    word edge = from * 0x9e3779b97f4a7c15ull + chosen * 0xc2b2ae3d27d4eb4full + hash() * 0x165667b19e3779f9ull + who;
    edge = (edge ^ edge >> 31) * 0xbf58476d1ce4e5b9ull;
    edges++;
    sum += edge ^ edge >> 29;
  }
}"""


def _census(machine: Machine) -> str:
    memory, inputs = machine.memory(), machine.inputs()
    chosen = " | ".join(f"(word){name} << {i}" for i, name in enumerate(inputs))
    text = _CENSUS.replace("MEMORY", ", ".join(f"now.{name}" for name, _, _ in memory))
    return text.replace("COUNT", str(len(memory))).replace("CHOSEN", chosen)
