"""retry (RTY): one call, tried again when it fails or takes too long; blocking and on loops alike.

outcomes.py   what a call gives, which errors, how many attempts     remains.py   what an abandoned attempt leaves behind
timeouts.py   limits: when the clock starts, who waits for whom       looping.py   coroutines: cancellation and cleanup
backoff.py    the time between attempts, and the worker bound         machine.py   any pattern of attempts against a model
"""
