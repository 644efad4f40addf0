"""``python -m vlrun`` is ``runner``."""

from vlrun.cli import runner

if __name__ == "__main__":
    raise SystemExit(runner())
