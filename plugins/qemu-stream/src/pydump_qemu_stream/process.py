"""The QEMU process: is it the one behind the monitor, and what the kernel shows of it.

The kernel names the process that made a socket listen. Since then that process may have started another program, or
have ended, and its number may be another process's. Where libvirt has the monitor, QEMU is sent a socket through it,
and the process that holds it is QEMU. We may be root, and what we read ends up in a dump: so nothing of a process is
believed before it has been checked, after it was opened, that this process still holds its socket and has gained no
rights.

Source: unix(7) on SO_PEERCRED, pidfd_open(2), sock_diag(7), proc(5); include/uapi/linux/unix_diag.h.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import struct
import sys
from collections.abc import Callable, Mapping
from typing import Final, NamedTuple, Self

from pydump.errors import SourceError
from pydump_qemu_stream.maps import Mapping as Mapped

#: Linux 6.5; Python has no name for it. Source: include/uapi/asm-generic/socket.h.
SO_PEERPIDFD: Final = 77
NETLINK_SOCK_DIAG: Final = 4
SOCK_DIAG_BY_FAMILY: Final = 20
NLM_F_REQUEST: Final = 1
UDIAG_SHOW_PEER: Final = 4
UNIX_DIAG_PEER: Final = 2
#: struct nlmsghdr: length, type, flags, sequence, port.
_NLMSGHDR: Final = struct.Struct("=IHHII")
#: struct unix_diag_req: family, protocol, pad, states, inode, show, cookie (all ones: any).
_UNIX_DIAG_REQ: Final = struct.Struct("=BBHIII8s")
#: struct unix_diag_msg: family, type, state, pad, inode, cookie.
_UNIX_DIAG_MSG: Final = struct.Struct("=BBBBI8s")
#: struct rtattr: length, type.
_RTATTR: Final = struct.Struct("=HH")
_HINT: Final = "run pydump where QEMU runs, and connect to a monitor that QEMU itself has made"


class ImpossibleError(SourceError):
    """There is no such way to this guest's memory; the message says why."""


class Credentials(NamedTuple):
    """What SO_PEERCRED says (struct ucred)."""

    pid: int
    uid: int
    gid: int


class Process:
    """A process that holds a socket of QEMU's.

    Args:
        pid: Its number, as this process sees it.
        inode: The socket's.
        owner: Whose it must be: "Uid" and "Gid" as far as they matter. Nothing matters of root's own, for root could
            have read whatever runs there.
        pidfd: Opens a pidfd of it; the process must be the one that was meant when the number was found.

    Attributes:
        pid: Its number.

    Raises:
        ImpossibleError: It is not visible from here, or it does not hold this socket.
    """

    def __init__(
        self, pid: int, inode: int, owner: Mapping[str, int], pidfd: Callable[[int], int] = os.pidfd_open
    ) -> None:
        self.pid = pid
        self._inode = inode
        self._owner = owner if owner.get("Uid") else {}
        self._pidfd = self._directory = -1
        try:
            self._pidfd = pidfd(pid)
            # What is opened below this directory is of the same process, or fails when that has ended.
            self._directory = os.open(f"/proc/{pid}", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            self.close()
            raise ImpossibleError(f"the QEMU process {pid} cannot be opened: {error.strerror}", hint=_HINT) from error
        try:
            self.check()
        except BaseException:
            self.close()
            raise

    @classmethod
    def behind(cls, connection: socket.socket) -> Self:
        """The process at the other end of a monitor's UNIX socket.

        Raises:
            ImpossibleError: It is not visible from here, or it does not serve this socket.
        """
        made = credentials(connection)
        if not made.pid:
            raise ImpossibleError(
                "QEMU is not visible from here: its monitor is not a UNIX socket, or it runs in another container",
                hint="run pydump where QEMU runs",
            )
        owner = {"Uid": made.uid, "Gid": made.gid}
        return cls(made.pid, peer_inode(connection), owner, lambda pid: _pidfd(connection, pid))

    def open(self, name: str) -> int:
        """Open a file of ``/proc/PID`` and check that it belongs to the process behind the monitor.

        Returns:
            A file descriptor for reading, which the caller closes.

        Raises:
            ImpossibleError: That is not permitted, or it is another process.
        """
        try:
            fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK, dir_fd=self._directory)
        except OSError as error:
            raise self._denied(name, error) from error
        return self._checked(fd)

    def names(self, name: str) -> list[str]:
        """What a directory of ``/proc/PID`` holds.

        Raises:
            ImpossibleError: It cannot be read.
        """
        try:
            fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self._directory)
            try:
                return os.listdir(fd)
            finally:
                os.close(fd)
        except OSError as error:
            raise self._denied(name, error) from error

    def text(self, name: str) -> str:
        """The text of a file of ``/proc/PID``; raises as :meth:`open`."""
        with os.fdopen(self.open(name), errors="surrogateescape") as file:
            return file.read()

    def open_mapped(self, mapping: Mapped) -> int:
        """Open a file that the process maps: by the mapping, which takes root, or one it has open, or by its name.

        Returns:
            A file descriptor for reading, which the caller closes.

        Raises:
            ImpossibleError: It cannot be opened.
        """
        names = [f"map_files/{mapping.start:x}-{mapping.end:x}", *(f"fd/{name}" for name in self.names("fd"))]
        failure: OSError | None = None
        for name in [*names, mapping.path]:
            try:
                fd = _open_as(name, self._directory, mapping)
            except OSError as error:
                failure = failure or (None if isinstance(error, FileNotFoundError) else error)
                continue
            if fd >= 0:
                return self._checked(fd)
        why = f": {failure.strerror}" if failure else ""
        raise ImpossibleError(
            f"the file with the guest's memory, {mapping.path}, cannot be opened{why}",
            hint="run pydump as root, or as the user that QEMU runs as",
        )

    def _checked(self, fd: int) -> int:
        """A file that was opened just now, if :meth:`check` passes after it; else it is closed."""
        try:
            self.check()
        except BaseException:
            os.close(fd)
            raise
        return fd

    def check(self) -> None:
        """Check that the process runs, holds the other end of the socket, and has no other rights than its maker had.

        Raises:
            ImpossibleError: It does not.
        """
        if select.select([self._pidfd], [], [], 0)[0]:
            raise self._foreign("has ended")
        if not any(self._is_ours(name) for name in self.names("fd")):
            raise self._foreign("does not hold the socket any more")
        if not self._owner:
            return
        try:
            with open("status", opener=lambda path, flags: os.open(path, flags, dir_fd=self._directory)) as file:
                fields = dict(line.split(":", 1) for line in file)
        except OSError as error:
            raise self._denied("status", error) from error
        for name, allowed in self._owner.items():
            if {int(number) for number in fields[name].split()} != {allowed}:
                raise self._foreign("has become another user's")

    def _is_ours(self, name: str) -> bool:
        try:
            return os.readlink(f"fd/{name}", dir_fd=self._directory) == f"socket:[{self._inode}]"
        except OSError:  # it was closed meanwhile
            return False

    def _foreign(self, why: str) -> ImpossibleError:
        return ImpossibleError(f"the QEMU process {self.pid} {why}: its memory is not read", hint=_HINT)

    def _denied(self, name: str, error: OSError) -> ImpossibleError:
        return ImpossibleError(
            f"cannot open /proc/{self.pid}/{name} of QEMU: {error.strerror}",
            hint="run pydump as root, or as QEMU's user with kernel.yama.ptrace_scope=0",
        )

    def close(self) -> None:
        """Close what is open."""
        for fd in (self._pidfd, self._directory):
            if fd >= 0:
                os.close(fd)
        self._pidfd = self._directory = -1


def credentials(connection: socket.socket) -> Credentials:
    """Who made the other end of a connection; the pid is 0 where that is not known."""
    if connection.family != socket.AF_UNIX:
        return Credentials(0, -1, -1)
    data = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    return Credentials(*struct.unpack("3i", data))


def peer_inode(connection: socket.socket) -> int:
    """The inode of the socket at the other end of a UNIX connection.

    Raises:
        ImpossibleError: The kernel does not say.
    """
    inode = os.fstat(connection.fileno()).st_ino
    request = _UNIX_DIAG_REQ.pack(socket.AF_UNIX, 0, 0, 0xFFFFFFFF, inode & 0xFFFFFFFF, UDIAG_SHOW_PEER, b"\xff" * 8)
    header = _NLMSGHDR.pack(_NLMSGHDR.size + len(request), SOCK_DIAG_BY_FAMILY, NLM_F_REQUEST, 1, 0)
    why = "it has no answer"
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_SOCK_DIAG) as netlink:
            netlink.settimeout(1)
            netlink.send(header + request)
            answer = netlink.recv(4096)
        at = _NLMSGHDR.size + _UNIX_DIAG_MSG.size
        if _NLMSGHDR.unpack_from(answer)[1] == SOCK_DIAG_BY_FAMILY:  # else an error
            while at + _RTATTR.size <= len(answer):
                length, kind = _RTATTR.unpack_from(answer, at)
                if kind == UNIX_DIAG_PEER:
                    return int.from_bytes(answer[at + _RTATTR.size : at + length], sys.byteorder)
                at += max(_RTATTR.size, -(-length // 4) * 4)
    except (OSError, struct.error) as error:
        why = str(error)
    raise ImpossibleError(f"the kernel does not say which process serves the monitor (sock_diag): {why}", hint=_HINT)


def _open_as(name: str, directory: int, mapping: Mapped) -> int:
    """Open a file for reading if it is the one that is mapped; -1 if it is another one.

    Args:
        name: Its path, below ``directory`` unless it is absolute.
        directory: A directory's file descriptor.
        mapping: The mapping.

    Raises:
        OSError: It cannot be opened.
    """
    # Without opening it for real, for a device or a FIFO that stands there may do something, or nothing for ever.
    found = os.open(name, os.O_PATH | os.O_CLOEXEC, dir_fd=directory)
    try:
        status = os.fstat(found)
        # Of a file on btrfs maps names another device than stat does.
        if status.st_ino != mapping.inode or (status.st_dev != mapping.device and not name.startswith("map_files/")):
            return -1
        return os.open(f"/proc/self/fd/{found}", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.close(found)


def _pidfd(connection: socket.socket, pid: int) -> int:
    """A pidfd of the process: the kernel's own, which names the process and not its number, where it gives one."""
    with contextlib.suppress(OSError):
        return connection.getsockopt(socket.SOL_SOCKET, SO_PEERPIDFD)
    return os.pidfd_open(pid)
