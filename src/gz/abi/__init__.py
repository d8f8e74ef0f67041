# SPDX-License-Identifier: Apache-2.0
"""Every number that two parties share: core, host kernel driver, VMM, guest.

The values are those of the public gzvm driver (versions 6 to 13 of its patch series), crosvm and the QEMU
accelerator; each stands here once and nowhere else.
"""
