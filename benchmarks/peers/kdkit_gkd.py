"""kdkit's side of benchmarks/peers/trl_gkd.py; prints one line of JSON.

Command: python -m benchmarks.peers.kdkit_gkd fp32|bf16 (the teacher's precision; needs KDKIT_TEST_DATA)
"""

import sys

from benchmarks.gkd_throughput import kdkit_row
from benchmarks.measure import print_row

if __name__ == "__main__":
    print_row(kdkit_row(sys.argv[1]))
