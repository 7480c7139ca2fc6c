"""find.py VMCORE TEXT: where in guest memory a text stands, block by block and a MiB at a time."""

import sys

import pydump

STEP, text = 1 << 20, sys.argv[2].encode()
with pydump.open(sys.argv[1]) as vmcore:
    for start, end in vmcore.guest.memory.ranges().subtract(vmcore.image.excluded()):
        for paddr in range(start, end, STEP):
            data = vmcore.read(paddr, min(STEP + len(text) - 1, end - paddr))  # a text may cross the border
            at = data.find(text)
            while at >= 0:
                print(hex(paddr + at))
                at = data.find(text, at + 1)
