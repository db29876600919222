"""The benchmarks run: what they say is for people, so a change that breaks one would pass unseen."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def test_submissions_are_written_and_read_beside_their_peers():
    command = [sys.executable, "-m", "benchmarks.submissions", "--images", "20", "--boxes", "3"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("the same numbers") == 2
