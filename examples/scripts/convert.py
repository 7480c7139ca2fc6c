"""convert.py IN OUT [COMPRESSION]: any dump to a kdump file, checked afterwards."""

import sys

import pydump

source, output, *compression = sys.argv[1:]
report = pydump.dump(source, output, compression=compression[0] if compression else None)
assert pydump.verify(output).ok and pydump.compare(source, output).same
print(f"{report.ram_size} bytes of RAM in {report.output_size}, {report.compression}")
