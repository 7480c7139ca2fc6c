"""The library's QMP client, as pydump needs it."""

from __future__ import annotations

from typing import Final

from qemu.qmp import Message, QMPClient

from pydump_source_qemu.limits import MAX_LINE

#: The id of a command whose reply is dropped.
POSTED: Final = "posted"


class Client(QMPClient):
    """The library's client, for monitors of -qmp-pretty as well, and without the text that it makes for its log."""

    async def _readline(self) -> bytes:
        """A whole message. Where it has many lines, all but the first and the last are indented.

        Source: qobject_to_json_pretty in qobject/qjson.c.
        """
        line = await super()._readline()
        if line.rstrip() != b"{":
            return line
        lines, size = [line], 0
        while lines[-1].rstrip() != b"}":
            lines.append(await super()._readline())
            size += len(lines[-1])
            if size > MAX_LINE or not lines[-1].endswith(b"\n"):
                raise ValueError("a message without an end")
        return b" ".join(line.strip() for line in lines) + b"\n"

    async def _on_message(self, msg: Message) -> None:
        if msg.get("id") != POSTED:
            await super()._on_message(msg)

    def _cb_outbound(self, message: Message) -> Message:
        return message

    def _cb_inbound(self, message: Message) -> Message:
        return message
