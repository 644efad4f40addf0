"""The ``runner`` command, from a checkout: ``python runner.py run experiments/rosita_refcoco+.yaml``."""

try:
    from vlrun.cli import runner
except ModuleNotFoundError as error:
    raise SystemExit(f"{error}. Install vlrun first: `make demo` does, or see README.md (and use its .venv)") from error

if __name__ == "__main__":
    raise SystemExit(runner())
