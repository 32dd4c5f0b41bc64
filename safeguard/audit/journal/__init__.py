"""How records are kept: ring, frames, segments, tree, signatures, and what reads, mends and cuts them.

Writing: ``journal`` (what the shield sees) → ``sinks`` → ``ring`` → ``writer`` → ``segments`` (``frames``, ``merkle``,
``keys``, ``packing``), with ``runs`` as the list of runs and ``mirror`` for people. Reading: ``scan``. Afterwards:
``recover``, ``prune`` with ``cut``.
"""
