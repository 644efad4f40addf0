"""``python -m vlrun`` is ``runner``."""

from vlrun.cli import main

raise SystemExit(main())
