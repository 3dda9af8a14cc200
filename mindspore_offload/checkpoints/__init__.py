# SPDX-License-Identifier: Apache-2.0

"""Checkpoints: reads, writes, merges and converts them."""
