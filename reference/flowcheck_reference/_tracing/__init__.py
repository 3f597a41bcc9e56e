"""The inside of `Tracer`.

marks.py       a place in the queue, for which one waits          sinks.py       a file, an HTTP collector, OpenTelemetry
"""
