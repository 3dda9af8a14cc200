# SPDX-License-Identifier: Apache-2.0

"""Examines this machine: versions, settings, the native library, training steps and their speed."""
