"""``python -m safeguard`` is the ``safeguard`` command."""

from safeguard.cli import main

main()
