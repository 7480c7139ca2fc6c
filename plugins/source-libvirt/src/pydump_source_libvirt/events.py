"""What libvirt says happens to a domain.

Source: virDomainEventType in include/libvirt/libvirt-domain.h; docs/html/libvirt-libvirt-event.html of libvirt.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from pydump.errors import SourceError

if TYPE_CHECKING:
    from pydump_source_libvirt.domain import Domain

#: Kinds of VIR_DOMAIN_EVENT_ID_LIFECYCLE.
RESUMED: Final = 4
CRASHES: Final = 8


class Events:
    """What happens to a domain from now on.

    Args:
        domain: The domain, connected to with events.

    Attributes:
        heard: The kind of each event, in order.

    Raises:
        SourceError: libvirt does not say it.
    """

    def __init__(self, domain: Domain) -> None:
        import libvirt

        self._libvirt = libvirt
        self.heard: list[int] = []
        self._woken = False
        domain.listen(libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE, self._came)

    def _came(self, connection: Any, domain: Any, kind: int, detail: int, opaque: object) -> None:
        self.heard.append(kind)
        self._woken = True

    def _wake(self, *arguments: object) -> None:
        self._woken = True

    def wait(self, seconds: float, fd: int = -1) -> None:
        """Wait until something happens, ``fd`` can be read, or the time is over.

        Raises:
            SourceError: libvirt's event loop fails.
        """
        library, self._woken = self._libvirt, False
        timer = library.virEventAddTimeout(int(seconds * 1000), self._wake, None)
        handle = library.virEventAddHandle(fd, library.VIR_EVENT_HANDLE_READABLE, self._wake, None) if fd >= 0 else -1
        try:
            while not self._woken:
                library.virEventRunDefaultImpl()
        except library.libvirtError as error:
            raise SourceError(f"libvirt: {error.get_error_message()}") from None
        finally:
            library.virEventRemoveTimeout(timer)
            if handle >= 0:
                library.virEventRemoveHandle(handle)
