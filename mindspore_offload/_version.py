# SPDX-License-Identifier: Apache-2.0

"""The version, apart from the package, so that building it does not import MindSpore."""

__version__ = "0.2.0"
