# SPDX-License-Identifier: Apache-2.0
"""GenieZone in Python: a type-1 hypervisor for Arm64, its driver, its VMM and the board it runs on."""
