"""The main job on real dumps: each bundled QEMU dump to a kdump file, verified, compared, and a table of it."""

from __future__ import annotations

import json
import lzma
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

DUMPS = Path(__file__).resolve().parents[1] / "tests" / "data" / "qemu"
#: Guest, and the compression to write its dump with.
JOBS = (
    ("linux-x86_64", "zlib"),
    ("linux-x86_64", "zstd"),
    ("bare-x86_64", "lzo"),
    ("bare-i386", "snappy"),
    ("bare-aarch64", "zlib"),
    ("bare-arm", "lzo"),
    ("bare-s390x", "snappy"),
    ("bare-ppc64", "zstd"),
    ("bare-riscv64", "zlib"),
)
QEMUS = ("qemu-system-x86_64", "qemu-system-i386", "qemu-system-aarch64", "qemu-system-riscv64")
ROW = "{:<13} {:<8} {:<7} {:>10} {:>11} {:>11}  {:<7} {:>6}  {:<7} {}"


def pydump(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command as a user would."""
    return subprocess.run([sys.executable, "-m", "pydump", *arguments], capture_output=True, text=True)


def must(*arguments: str) -> str:
    """Run the command; end the demo where it fails."""
    done = pydump(*arguments)
    if done.returncode:
        sys.exit(f"pydump {' '.join(arguments)}: exit code {done.returncode}: {done.stderr.strip()}")
    return done.stdout


def mib(size: int) -> str:
    """Bytes as MiB."""
    return f"{size / (1 << 20):.2f} MiB"


def main() -> int:
    """Write, check and compare each dump."""
    print("QEMU's ELF dump in, a kdump file out, verified and compared with what went in:\n")
    print(ROW.format("guest", "arch", "order", "RAM", "QEMU's ELF", "our kdump", "by", "time", "verify", "compare"))
    with tempfile.TemporaryDirectory(prefix="pydump-demo-") as directory:
        for guest, compression in JOBS:
            elf, out = Path(directory, f"{guest}.elf"), Path(directory, f"{guest}.{compression}")
            if not elf.exists():
                elf.write_bytes(lzma.decompress((DUMPS / guest / "elf.xz").read_bytes()))
            report = json.loads(must("dump", str(elf), str(out), "--compression", compression, "--json"))
            verified, compared = pydump("verify", str(out)), pydump("compare", str(elf), str(out))
            print(
                ROW.format(
                    guest,
                    report["arch"],
                    report["byte_order"],
                    mib(report["ram_size"]),
                    mib(elf.stat().st_size),
                    mib(out.stat().st_size),
                    compression,
                    f"{report['seconds']:.2f} s",
                    "sound" if verified.returncode == 0 else "FAULTY",
                    "same guest" if compared.returncode == 0 else "DIFFERENT",
                )
            )
            if verified.returncode or compared.returncode:
                print(verified.stdout, verified.stderr, compared.stdout, compared.stderr)
                return 1
        print("\n$ pydump info linux-x86_64.zlib\n")
        print(must("info", str(Path(directory, "linux-x86_64.zlib"))))
        live(Path(directory))
    return 0


def live(directory: Path) -> None:
    """Capture a guest that runs, where there is a QEMU to run one."""
    qemu = next((path for name in QEMUS if (path := shutil.which(name))), None)
    if qemu is None:
        print("No qemu-system-* is on the PATH, so no running guest is captured (apt install qemu-system-x86).")
        return
    socket, out = directory / "qmp.sock", directory / "live"
    machine = "virt" if "aarch64" in qemu or "riscv" in qemu else "pc"
    command = [qemu, "-nodefaults", "-display", "none", "-machine", machine, "-accel", "tcg", "-m", "64M"]
    guest = subprocess.Popen(
        ["timeout", "60", *command, "-qmp", f"unix:{socket},server=on,wait=off"], stderr=subprocess.PIPE, text=True
    )
    try:
        deadline = time.monotonic() + 10
        while not socket.exists() and guest.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        if not socket.exists():
            guest.terminate()
            print(f"{qemu} does not run a guest here, so none is captured: {guest.communicate()[1].strip()[:200]}")
            return
        print(f"A running guest of {Path(qemu).name}: pydump dump qmp:{socket.name} live\n")
        print(must("dump", f"qmp:{socket}", str(out)))
        print(must("verify", str(out)))
    finally:
        guest.terminate()
        guest.wait(10)


if __name__ == "__main__":
    sys.exit(main())
