# SPDX-License-Identifier: Apache-2.0
"""From syntax to the typed tree: types, definite assignment, None, reachability; errors with a caret."""
