"""facts.py VMCORE: whose memory it is, how much of it, and what is known of its kernel."""

import sys

import pydump

with pydump.open(sys.argv[1]) as vmcore:
    guest = vmcore.guest
    print(guest.arch, guest.utsname.release, f"{len(vmcore.cpus)} CPUs", f"{guest.memory.size >> 20} MiB")
    print(*(f"{block.paddr:#x}..{block.end:#x}" for block in guest.memory))
