"""Drafts of adapters: what a thing seems to offer, how it could be held, and which of these ways were seen to work.

Three steps, of which the first and the last run in a child process, as the thing's own code does there:

    sight.look(target)            what can be seen: signatures, colours, whether it is a context manager
    facets.<facet>.drafts(seen)   for each facet, ways to map its methods, the likeliest first: source code
    trying.attempt(...)           opens what was drafted and uses it once; what works is kept, with the claims that were seen

What no attempt has shown is left to a person: its line says so, and raises `Inexpressible`, so that nobody is accused of what
a draft got wrong.
"""
