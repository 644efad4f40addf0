"""``python -m vlrun`` is ``runner``."""

from vlrun.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
