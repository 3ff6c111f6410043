"""``python -m radapt``: the command line."""

from __future__ import annotations

from radapt.cli.main import main

__all__: list[str] = []

if __name__ == "__main__":
    main()
