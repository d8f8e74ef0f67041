# SPDX-License-Identifier: Apache-2.0
"""Devices that are not virtio, a file each."""
