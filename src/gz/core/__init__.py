# SPDX-License-Identifier: Apache-2.0
"""The EL2 program: a file per noun, written in metal (docs/language.md, docs/core.md)."""
