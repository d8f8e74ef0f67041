# SPDX-License-Identifier: Apache-2.0
"""What only measurements need."""
