# SPDX-License-Identifier: Apache-2.0
"""Bare programs for guests, in metal: they start at EL1 of a "virt" machine, under any hypervisor or none."""
