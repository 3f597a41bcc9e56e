"""How a certification runs: resolving subjects, judging one rule, and the pytest side of containment.

    options.py      what can be asked for              start.py        checks it, resolves, sets the session up
    plan.py         what will be judged, as data       resolve.py      loads each subject in a child process first
    session.py      the run: reports, certificates     item.py         a rule on a subject as a pytest item
    bench.py        one process that judges            judge.py        one rule on one subject: driver, watcher, finding
    shield.py       what a subject can reach of it     selftest.py     broken engines and what they must fail
    containment.py  xdist's workers                    scheduling.py   who gets what when a worker is gone
    journal.py      what a worker is doing, on disk    guardian.py     ends workers that can't even say they are stuck
    company.py      beside a user's own tests          catalogue.py    --flowcheck-list and --flowcheck-explain
    offers.py       facets and subjects that there are, plugins' included
"""
