"""Play one control in this process."""

import sys

from controls import clocks, dead, live, outside, stage

assert clocks
assert dead
assert live
assert outside

if __name__ == "__main__":
    stage.main(sys.argv[1:])
