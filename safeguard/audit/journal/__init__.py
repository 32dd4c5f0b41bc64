"""How records are kept: ring, frames, segments, tree, signatures, and what reads, mends and cuts them.

Writing: ``journal`` (what the shield sees) → ``sinks`` → ``ring`` → ``writer`` → ``segments`` (``frames``, ``merkle``,
``keys``, ``packing``), with ``witness`` for those who keep copies, ``runs`` as the list of runs, ``mirror`` for people.
Reading: ``scan``. Afterwards: ``recover``, and ``cut`` for what ``safeguard.audit.prune`` leaves.
"""
