# SPDX-License-Identifier: Apache-2.0
"""The guest's side and the fake hypervisor lie beside the tests."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from gz.cli import products
from gz.metal.target import NATIVE
from gz.vmm.virtio import queue, ring


@pytest.fixture(scope="session", autouse=True)
def compiled_ring(tmp_path_factory: pytest.TempPathFactory) -> None:
    """The VMM's compiled part, for this process."""
    if NATIVE is None:
        pytest.skip("metal does not compile for this machine's user space")
    queue.LIBRARY = tmp_path_factory.mktemp("ring") / "_ring.so"
    queue.LIBRARY.write_bytes(products.library("ring", [ring], target=NATIVE))
