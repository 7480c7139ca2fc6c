"""Reads guests that QEMU or libvirt saved."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydump.errors import PlanError, UnsupportedError
from pydump_format_qemu.libvirt import LZOP, MAGIC, PARTIAL, RAW, SPARSE, read_save_image
from pydump_format_qemu.qcow2 import SnapshotBacking
from pydump_qemu_stream.domain import Domain
from pydump_qemu_stream.image import Given, QemuImage

if TYPE_CHECKING:
    from pydump.interfaces.backing import Backing
    from pydump.interfaces.format import Opened
    from pydump_format_qemu import QemuReaderOptions


def open_image(opened: Opened) -> QemuImage:
    """Open a stream, bare or in a container.

    Raises:
        FormatError: There is no stream, or it holds no memory.
        PlanError: It is not known where its RAM is, or which snapshot is meant.
    """
    file: Backing = opened.files[0]
    options: QemuReaderOptions = opened.options
    given = Given(options.place, options.backing, opened.sibling, opened.files)
    head = file.read(0, min(16, file.size))
    if head.startswith(b"QFI\xfb"):
        snapshot = SnapshotBacking(file, options.snapshot)
        label = f"snapshot {snapshot.snapshot.name} in qcow2"
        return QemuImage(snapshot, 0, Domain(), (label, file.warnings), given)
    if options.snapshot:
        raise PlanError(f"--qemu-snapshot: {file.path} is not a qcow2 file")
    if head not in (MAGIC, PARTIAL):
        return QemuImage(file, 0, Domain(), ("", file.warnings), given)
    saved = read_save_image(file)
    stream, start = file, saved.stream
    if saved.format == LZOP:
        raise UnsupportedError(
            f"{file.path} is a libvirt save image that is compressed with lzop",
            hint=f"unpack the stream in it: tail -c +{start + 1} FILE | lzop -dc | pydump dump - OUTPUT",
        )
    if saved.format not in (RAW, SPARSE):
        stream, start = opened.unpacked(file, start), 0
    warnings = (*file.warnings, *(stream.warnings if stream is not file else ()), *saved.warnings)
    return QemuImage(stream, start, saved.domain, ("libvirt save image", warnings), given)
