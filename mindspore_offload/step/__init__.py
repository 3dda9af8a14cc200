# SPDX-License-Identifier: Apache-2.0

"""A step of the optimizer: its numbers, what the host may read, and the order."""
