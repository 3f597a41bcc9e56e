"""executor (EXE): the rules of `concurrent.futures.Executor`, in threads, in processes and on a cluster alike.

submit.py     results, exceptions, order, many submitters        workers.py      how many, reuse, context, names, resize
mapping.py    map                                                shutdown.py     end of work, races with it
cancelling.py cancel and its readers                             leaks.py        what remains afterwards
callbacks.py  done-callbacks                                     interpreter.py  exit, interrupt, fork
initializer.py                                                   processes.py    death and pickling of workers
machine.py    any sequence of operations against a model
"""
