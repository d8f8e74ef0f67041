# SPDX-License-Identifier: Apache-2.0
"""gzvm in the host's user space: one interface (`interface`) and its transports, doorbell and KVM (`transport`)."""
