# SPDX-License-Identifier: Apache-2.0
"""What this project uses of llvmlite, which comes without types."""

__version__: str
