"""The examples at the end of each command's help page."""

from __future__ import annotations

from typing import Final

#: A command's name to its examples: what to type, and what it does.
EXAMPLES: Final[dict[str, tuple[tuple[str, str], ...]]] = {
    "dump": (
        ("pydump dump qemu.elf vmcore", "Convert QEMU's ELF dump to a compressed kdump file"),
        ("pydump dump qmp:/run/vm.sock vmcore --pause full -d 31", "Capture a running guest without its free pages"),
        ("pydump dump vmcore - --format elf | ssh host 'cat > vmcore'", "Convert to ELF on the way to another host"),
    ),
    "info": (
        ("pydump info vmcore", "Show what a file is, and of which guest"),
        ("pydump info --notes --json vmcore", "Print the registers of each CPU as JSON"),
    ),
    "verify": (
        ("pydump verify vmcore", "Read everything back"),
        ("pydump verify part.0,part.1", "Check a split dump"),
        ("pydump verify --json one two three", "Check three dumps, and print what is found as JSON"),
    ),
    "compare": (
        ("pydump compare qemu.elf vmcore", "Check that a conversion kept everything"),
        ("pydump compare --ignore-excluded vmcore small", "Compare with a filtered dump"),
    ),
    "read": (
        ("pydump read --hex vmcore 0x1000 64", "Show 64 bytes at a guest-physical address"),
        ("pydump read --symbol vmcore linux_banner 128", "Read a variable of the guest's kernel"),
    ),
    "map": (
        ("pydump map vmcore", "Draw a map on the terminal"),
        ("pydump map -o map.svg vmcore", "Draw it into a file"),
    ),
    "dmesg": (
        ("pydump dmesg vmcore", "Print the log as dmesg does"),
        ("pydump dmesg --json vmcore", "Print its records as JSON"),
        ("pydump dmesg --follow qmp:/run/vm/qmp.sock", "Print what a running guest logs as it does"),
    ),
    "size": (
        ("pydump size qemu.elf", "Estimate the size of a dump at each level"),
        ("pydump size --json qemu.elf", "Print all 32 levels as JSON"),
    ),
    "shell": (
        ("pydump shell vmcore --vmlinux /usr/lib/debug/vmlinux", "Open drgn with the kernel's symbols"),
        ("pydump shell memory.lime tasks.py --arch x86_64", "Run a script with prog and vmcore"),
    ),
    "watch": (
        ("pydump watch qmp:/run/vm.sock --on panicked /var/crash", "Capture a guest when it panics"),
        (
            "pydump watch qmp:/run/vm.sock /var/crash --go-on --keep 3 -- -d 31",
            "Capture each panic without free pages, and keep three dumps",
        ),
    ),
    "batch": (
        ("pydump batch jobs.jsonl", "Run a list of jobs"),
        ("pydump batch --resume jobs.jsonl", "Go on with a list that was interrupted"),
        (
            "pydump batch --each '/crash/*.elf' --to '/small/{name}.kdump' dump -d 31",
            "Convert every dump of a directory",
        ),
    ),
    "status": (
        ("pydump status", "List all jobs"),
        ("pydump status --wait 3", "Wait until job 3 has ended, and exit as it did"),
        ("pydump status --clear", "Forget the jobs that have ended"),
    ),
    "storage": (
        ("pydump storage clean s3://crash/", "List what killed dumps left in a bucket"),
        ("pydump storage clean s3://crash/vmcore --remove", "Remove what is left of one dump"),
        ("pydump storage clean /dumps", "List hidden files that killed dumps left in a directory"),
    ),
    "plugins": (
        ("pydump plugins", "List what is installed"),
        ("pydump plugins --json", "Print it as JSON"),
    ),
    "new-plugin": (
        ("pydump new-plugin compressor lz_fast", "Start a compressor called lz_fast"),
        ("pydump new-plugin format tape", "Start a format called tape"),
        ("pydump new-plugin format reel --memory-only", "Start a format without notes and other facts"),
    ),
}
