"""synthetic.py OUTPUT: a vmcore of memory that is made up, for tests of whatever reads vmcores."""

import sys

import pydump
from pydump.model.guest import Guest
from pydump.model.memory import MemoryMap

ram = b"".join(b"page %09d\n\0" % n * 256 for n in range(1024))
source = pydump.BytesImage(Guest(MemoryMap()), {0x100000: ram})
pydump.dump(source, sys.argv[1], arch="x86_64", format="elf")
