"""The inside of `store`, from what is said to what is on the disk:

errors.py                        what can be wrong, as classes
names.py                         a run's id as a file name, and back; no two ids share one
codec.py      Snapshot           a value as JSON, exactly, or not at all
files.py                         descriptors that a forked child gives up; locks that the kernel takes back
replacing.py  Temporary          a file's bytes, all of the new or all of the old
log.py        Log                lines that are added, each whole
leasing.py                       one holder for each run, and none that is dead
database.py   Database           connections to SQLite, and its errors as ours

    save ──► Snapshot ──► Temporary: write, fsync ──► replace ──► fsync of the folder ──► return

A file system promises little: a name appears whole (rename), bytes are there once fsync has returned, and a lock goes
with its process. All of this is built from those three.
"""
