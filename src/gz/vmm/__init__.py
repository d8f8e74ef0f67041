# SPDX-License-Identifier: Apache-2.0
"""The VMM: the program in the host that gives a guest its memory, its devices and its first instruction."""
