"""Packets of the gdb remote protocol on a socket.

Source: GDB manual, appendix "GDB Remote Serial Protocol", sections Overview, Packets and Packet Acknowledgment.

Nothing of pydump is imported: the process that watches over the guest uses this as well. What is at the other end may
be anything, so each wait ends, and what comes is read in bounded pieces.
"""

from __future__ import annotations

import re
import select
import socket
import time
from collections.abc import Iterator, Sequence

#: Bytes of a packet, before and after it is unpacked. A stub that states a larger PacketSize is asked for less.
MAX_PACKET = 1 << 20
#: Bytes that come between a question and its answer: what the process before has asked for, and output of a monitor.
MAX_NOISE = 64 << 20
#: Seconds until an answer must be there.
PATIENCE = 30.0
#: How often a packet with a wrong checksum is asked for again, or sent again.
RETRIES = 3
#: What a stub sends when the guest stops, unasked or not. Source: section Stop Reply Packets.
STOP_REPLY = re.compile(rb"[TS][0-9a-fA-F]{2}")

#: What QEMU's monitor says to whoever connects.
MONITOR = re.compile(rb'\s*\{\s*"QMP"')

_ESCAPE, _RUN = 0x7D, 0x2A  # "}" and "*"


class WireError(Exception):
    """What is at the other end does not speak the protocol, or has hung up."""


class SilentError(WireError):
    """Nothing comes in time."""


class DamagedError(WireError):
    """A packet is damaged. What comes after it may be good."""


def framed(payload: bytes) -> bytes:
    """A payload without special characters as a packet."""
    return b"$%b#%02x" % (payload, sum(payload) & 0xFF)


def unpacked(body: bytes) -> bytes:
    """What a packet's body stands for: escapes undone, runs repeated.

    Raises:
        WireError: It is damaged, or longer than any packet.
    """
    if b"}" not in body and b"*" not in body:
        return body
    out = bytearray()
    at = 0
    while at < len(body):
        byte = body[at]
        if byte in (_ESCAPE, _RUN):
            at += 1
            if at == len(body) or (byte == _RUN and (not out or body[at] < 29)):
                raise DamagedError("the stub sent a damaged packet")
            out += bytes([body[at] ^ 0x20]) if byte == _ESCAPE else out[-1:] * (body[at] - 29)
            if len(out) > MAX_PACKET:
                raise DamagedError(f"the stub sent a packet of more than {MAX_PACKET >> 10} KiB")
        else:
            out.append(byte)
        at += 1
    return bytes(out)


class Wire:
    """The connection to a stub.

    Args:
        connection: A connected socket. It is not closed with this.
        acks: Whether packets are acknowledged.
        patience: Seconds until an answer must be there.
    """

    def __init__(self, connection: socket.socket, *, acks: bool = True, patience: float = PATIENCE) -> None:
        self._connection = connection
        self._data = bytearray()
        self._patience = patience
        self.acks = acks

    def ask(self, payload: bytes) -> bytes:
        """Send a packet, and give the packet that answers it.

        Raises:
            WireError: None comes, or nothing that can be one.
        """
        return next(self.ask_all([payload]))

    def ask_all(self, payloads: Sequence[bytes]) -> Iterator[bytes]:
        """Send packets without waiting, and give the answers in their order.

        Only a stub that keeps packets which it has not come to takes more than one at once. Of several answers only
        the last one is acknowledged: nothing may be sent while the stub waits for what it sends to be read.

        Raises:
            WireError: An answer does not come, or is nothing that can be one.
        """
        if not payloads:
            return
        self.send(b"".join(map(framed, payloads)))
        for _ in payloads[1:]:
            yield self.receive(one_of_many=True)
        yield self.receive(again=framed(payloads[0]) if len(payloads) == 1 else b"")

    def send(self, data: bytes) -> None:
        """Send bytes.

        Raises:
            WireError: The other end takes none.
        """
        try:
            self._connection.settimeout(self._patience)
            self._connection.sendall(data)
        except TimeoutError:
            raise WireError(f"the stub takes nothing for {self._patience:g} s") from None
        except OSError as error:
            raise WireError(f"the connection to the stub broke: {error.strerror}") from None

    def receive(self, *, again: bytes = b"", one_of_many: bool = False) -> bytes:
        """The next packet; notifications are passed over.

        Args:
            again: What is sent again when the stub says that it came damaged.
            one_of_many: Others follow, so nothing is sent.

        Raises:
            WireError: None comes in time, or nothing that can be one.
        """
        deadline = time.monotonic() + self._patience
        damaged = 0
        while True:
            kind, body, checksum = self._packet(deadline)
            if kind == b"-":
                damaged += 1
                if not again or damaged > RETRIES:
                    raise DamagedError("the stub says that what it got was damaged")
                self.send(again)
            elif kind == b"$":
                if checksum == b"%02x" % (sum(body) & 0xFF):
                    if self.acks and not one_of_many:
                        self.send(b"+")
                    return unpacked(body)
                damaged += 1
                if not self.acks or one_of_many or damaged > RETRIES:
                    raise DamagedError("the stub sent a packet with a wrong checksum")
                self.send(b"-")

    def _packet(self, deadline: float) -> tuple[bytes, bytes, bytes]:
        """What comes next: ``$`` or ``%`` with a body and its checksum in lower case, or ``-``."""
        noise = searched = 0
        while True:
            start = next((i for i, byte in enumerate(self._data) if byte in b"$%-"), len(self._data))
            if MONITOR.match(self._data):
                raise WireError("a monitor answers, and no gdb stub: give its socket to qmp:")
            noise += start
            del self._data[:start]
            if self._data[:1] == b"-":
                del self._data[:1]
                return b"-", b"", b""
            end = self._data.find(b"#", max(0, searched - start))
            if 0 < end <= len(self._data) - 3:
                packet = bytes(self._data[: end + 3])
                del self._data[: end + 3]
                return packet[:1], packet[1:end], packet[end + 1 :].lower()
            searched = len(self._data) - 2
            if len(self._data) > MAX_PACKET or noise > MAX_PACKET:
                raise WireError("what answers is not a gdb stub")
            self._data += self._more(deadline)

    def _more(self, deadline: float) -> bytes:
        poll = select.poll()
        poll.register(self._connection.fileno(), select.POLLIN)
        if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
            raise SilentError(f"the stub does not answer within {self._patience:g} s")
        try:
            data = self._connection.recv(1 << 18)
        except OSError as error:
            raise WireError(f"the connection to the stub broke: {error.strerror}") from None
        if not data:
            raise WireError("the stub has hung up")
        return data
