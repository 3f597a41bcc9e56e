"""The inside of `flow`, along the way of a run:

graph.py    Flow, Plan          what was declared, as arrays
run.py      Run                 what is ready, what became of each node, when all is over; starts nothing
threads.py  ThreadCarrier       makes calls on the workers of a pool
tasks.py    TaskCarrier         awaits async nodes in an event loop, asyncio or trio
foreign.py  ForeignCarrier      hands calls to any `concurrent.futures.Executor`
keeping.py  KeptRun, Keeper     a run that is kept in a store, and resumed from there
shared.py                       what all runs of an engine share, made once
results.py  Result              what the caller gets

    Run ──ready──► carrier ──calls the node──► Run.succeed / Run.fail ──counts down what was behind it──► ready …

There is no coordinator: whoever ends a node finds what that made ready, goes on with one, and leaves the rest to others.
"""
