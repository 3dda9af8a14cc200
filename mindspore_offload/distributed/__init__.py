# SPDX-License-Identifier: Apache-2.0

"""The ranks of a training, and the pieces of states that they share: every collective is here."""
