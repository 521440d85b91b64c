"""Entry point of `autotune`, also as `python -m autotune`: Ctrl-C never shows a traceback."""

from __future__ import annotations

import os
import sys
from contextlib import suppress

from autotune.utils import interrupts


def main() -> None:
    """Run the command line; Ctrl-C is handled before the imports, which take longest."""
    with interrupts.insistent():
        try:
            from autotune.cli.app import main as run

            run()
        except (KeyboardInterrupt, Exception):
            # An import that Ctrl-C ended may leave a library broken, which then raises anything.
            if not interrupts.is_requested() or "--debug" in sys.argv:
                raise
            with suppress(OSError):  # its terminal may be gone
                os.write(2, b"Interrupted.\n")
            sys.exit(130)


if __name__ == "__main__":
    main()
