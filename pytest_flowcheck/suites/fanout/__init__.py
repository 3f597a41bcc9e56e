"""fanout (FAN): one body over many items, so many at a time, on threads, loops and processes alike.

order.py    results and starts in item order        inputs.py   odd bounds, no items, endless and mutable ones
bounds.py   how many are in flight, and real        context.py  what an item sees; nested fan-outs; recorded ids
halting.py  halts, prefixes, recorded failures      remains.py  what stays after many calls
escaping.py exceptions, failing iterators, returns  looping.py  cancellation
machine.py  any mix of outcomes against a model
"""
