# SPDX-License-Identifier: Apache-2.0
"""Virtio 1.3: the mmio transport, the split queue and a file per device."""
