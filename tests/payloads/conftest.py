# SPDX-License-Identifier: Apache-2.0
"""The emulator lies beside the tests, the models beside those of the core."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "core")]
