# SPDX-License-Identifier: Apache-2.0

"""Plans a training: the memory that it needs, and the time of an update."""
