# SPDX-License-Identifier: Apache-2.0
"""The doorbell: the host's calls without a kernel module.

One page of the host's physical space has no memory behind it. A store of any value, 32 or 64 bits wide, to its
first word traps to the core, which takes the registers exactly as those of the HVC: x0 = function id, x1-x7 =
arguments; results are in x0-x3 when the instruction retires. The store must be a plain one (no pair, no write-back,
no vector register: those trap without a syndrome and are answered by an abort); the address register and the stored
register are any.

RUN restarts: on a host interrupt the store does not retire and no register changes, so that the thread runs it again
when the host's kernel resumes it. Other calls always retire.
"""

from __future__ import annotations

NODE = "hypervisor"
"""Child of the tree's root, without unit address."""
COMPATIBLE = ("mediatek,geniezone", "mediatek,geniezone-hyp")
"""Strings of the driver from version 11 on, and before."""
PROPERTY = "gz,doorbell"
"""Address and size of the page, two cells each, big-endian: 16 bytes."""
DOORBELL_SIZE = 0x1000
STORE_OFFSET = 0
"""Other offsets of the page answer like memory that does not exist."""
