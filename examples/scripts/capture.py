"""capture.py QMP-SOCKET OUTPUT: the memory of a guest that runs, and how long it stood still for it."""

import sys

import pydump

report = pydump.dump(f"qmp:{sys.argv[1]}", sys.argv[2], progress=lambda p: print(p.phase, p.done, p.total))
print(f"{report.ram_size >> 20} MiB; the guest stood still for {report.paused_seconds:.3f} s")
