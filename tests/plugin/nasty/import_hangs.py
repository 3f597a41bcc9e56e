"""Importing this is the mistake."""

import threading

threading.Event().wait()
