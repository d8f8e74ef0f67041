# SPDX-License-Identifier: Apache-2.0
"""From typed trees to LLVM IR as text."""
