"""The ``runner`` command, from a checkout: ``python runner.py run experiments/rosita_refcoco+.yaml``."""

from vlrun.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
