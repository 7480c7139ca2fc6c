"""write_dumps.py DIRECTORY FILE...: what pydump says of each dump, and digests of what it writes of it, as JSON.

test_hosts.py runs it on two hosts. It uses pydump alone, from PYTHONPATH.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

import pydump

#: What is written of each dump. zlib and LZO are those of the host, whose versions may compress differently.
WRITTEN = {
    "elf": {"format": "elf"},
    "kdump": {"format": "kdump", "compression": "none", "options": {"kdump": {"dedup": True}}},
    "flattened": {"format": "kdump", "compression": "none", "flatten": True},
    "zlib": {"format": "kdump", "compression": "zlib", "options": {"zlib": {"library": "zlib"}}},
    "lzo": {"format": "kdump", "compression": "lzo"},
    "snappy": {"format": "kdump", "compression": "snappy"},
    "zstd": {"format": "kdump", "compression": "zstd"},
}


def main() -> None:
    """Print one object per dump."""
    directory, found = Path(sys.argv[1]), {}
    for path in map(Path, sys.argv[2:]):
        with pydump.open(path) as source:
            guest = source.guest
            facts = {
                "arch": guest.arch,
                "byte_order": guest.byte_order,
                "memory": [(block.paddr, block.size) for block in guest.memory],
                "notes": [(note.name, note.type, note.desc.hex()) for note in guest.notes],
                "registers": [dict(cpu.registers) for cpu in source.cpus],
            }
        digests = {}
        for name, keywords in WRITTEN.items():
            out = directory / f"{path.name}-{name}"
            pydump.dump(path, out, workers=2, sync=False, **keywords)
            assert not pydump.verify(out).faults
            digests[name] = hashlib.sha256(out.read_bytes()).hexdigest()
        found[path.name] = {"facts": facts, "written": digests}
    json.dump(found, sys.stdout, indent=1)


if __name__ == "__main__":
    main()
