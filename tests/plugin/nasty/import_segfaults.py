"""Importing this is the mistake."""

import ctypes

ctypes.string_at(0)
