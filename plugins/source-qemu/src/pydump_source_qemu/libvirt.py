"""A guest that libvirt manages."""

from __future__ import annotations

from typing import Final

from pydump_source_qemu.monitor import CommandError, Monitor

#: The character device of libvirt's own monitor. Source: qemuBuildMonitorCommandLine in src/qemu/qemu_command.c.
MONITOR: Final = "charmonitor"
#: So begins the name of a socket that nobody is connected to. Source: qemu_chr_socket_address in chardev/char-socket.c.
ALONE: Final = "disconnected:"


def caution(monitor: Monitor) -> str | None:
    """What to know before QEMU dumps a guest; None where libvirt does not watch it.

    Raises:
        SourceError: QEMU is gone.
    """
    try:
        devices = monitor.rows("query-chardev", label=str, filename=str)
    except CommandError:
        return None
    if not any(device["label"] == MONITOR and not device["filename"].startswith(ALONE) for device in devices):
        return None
    return (
        "libvirt watches this guest, and libvirtd 9.0 crashes when QEMU tells it of a dump that is not its own (the "
        "guest runs on): capture it as libvirt:DOMAIN, take --pause snapshot, which needs no dump, or stop libvirtd"
    )
