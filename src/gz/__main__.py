# SPDX-License-Identifier: Apache-2.0
"""`python -m gz`."""

from __future__ import annotations

from gz.cli import main

if __name__ == "__main__":
    main()
