# SPDX-License-Identifier: Apache-2.0
"""The Arm architecture in its own names: registers, syndromes, descriptors, GIC, timers, PSCI, SMCCC.

Sources: Arm Architecture Reference Manual (DDI 0487), GIC architecture (IHI 0069), PSCI (DEN0022), SMC calling
convention (DEN0028).
"""
