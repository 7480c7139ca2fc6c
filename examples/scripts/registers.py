"""registers.py VMCORE: the registers of every CPU as JSON, as `pydump dump --cpus` takes them."""

import json
import sys

import pydump

with pydump.open(sys.argv[1]) as vmcore:
    print(json.dumps([dict(cpu.registers) for cpu in vmcore.cpus], indent=2))
