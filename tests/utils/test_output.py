"""Standard output that is reserved for a result."""

from __future__ import annotations

import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO

from autotune.utils.output import reserved_output, result_stream

PRINTS = """
import os, subprocess, sys
from autotune.utils.output import reserved_output, result_stream
with reserved_output():
    print("python")
    os.write(1, b"c\\n")
    subprocess.run([sys.executable, "-c", "print('process')"])
    print("result", file=result_stream(), flush=True)
print("after")
"""


def test_only_the_result_reaches_standard_output():
    done = subprocess.run([sys.executable, "-c", PRINTS], capture_output=True, text=True)
    assert done.stdout == "result\nafter\n"
    assert sorted(done.stderr.split()) == ["c", "process", "python"]


def test_output_that_is_captured_is_reserved_too():
    out, errors = StringIO(), StringIO()
    with redirect_stdout(out), redirect_stderr(errors), reserved_output():
        print("python")
        print("result", file=result_stream())
    assert (out.getvalue(), errors.getvalue()) == ("result\n", "python\n")
    assert result_stream() is sys.stdout
