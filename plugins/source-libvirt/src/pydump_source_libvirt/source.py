"""Opens a domain of libvirt."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Final
from urllib.parse import urlsplit

from pydump.errors import PlanError
from pydump.interfaces.source import Source
from pydump_source_libvirt.options import LibvirtOptions

if TYPE_CHECKING:
    from pydump.interfaces.watch import Watch
    from pydump_source_libvirt.live import LibvirtGuest


#: Ways to another host. Source: docs/uri.rst of libvirt.
REMOTE: Final = ("ext", "libssh", "libssh2", "ssh", "tcp", "tls")


class LibvirtSource(Source):
    """``libvirt:DOMAIN``, ``libvirt:URI:DOMAIN`` or ``libvirt+URI:DOMAIN``: a domain by its name or UUID."""

    name: ClassVar[str] = "libvirt"
    Options: ClassVar[type] = LibvirtOptions
    events: ClassVar[tuple[str, ...]] = ("panicked",)

    @classmethod
    def open(cls, argument: str, options: Any = None) -> LibvirtGuest:
        from pydump_source_libvirt.domain import Domain
        from pydump_source_libvirt.live import LibvirtGuest

        domain = Domain(*parsed(argument))
        try:
            domain.refuse_others()
            return LibvirtGuest(domain, options or LibvirtOptions())
        except BaseException:
            domain.close()
            raise

    @classmethod
    def watch(cls, argument: str, event: str, options: Any = None, *, known: bool = False) -> Watch:
        """Connect to a domain and hear of an event; see :class:`pydump.interfaces.watch.Watches`."""
        from pydump_source_libvirt.domain import Domain
        from pydump_source_libvirt.watch import LibvirtWatch

        domain = Domain(*parsed(argument), events=True)
        try:
            return LibvirtWatch(domain, known=known)
        except BaseException:
            domain.close()
            raise


def parsed(argument: str) -> tuple[str, str]:
    """Libvirt's URI, empty for its default, and the domain's name or UUID.

    Raises:
        PlanError: It names no domain, or libvirt on another host.
    """
    uri, domain = "", argument
    if "://" in argument:
        uri, _, domain = argument.rpartition(":")
    hint = "write libvirt:DOMAIN, or libvirt:qemu:///system:DOMAIN"
    if not domain or domain.startswith("/") or not argument.isprintable() or len(argument) > 4096:
        raise PlanError(f"{argument[:100]!r} does not name a domain", hint=hint)
    refuse_remote(uri)
    return uri, domain


def refuse_remote(uri: str) -> None:
    """Refuse libvirt on another host.

    Raises:
        PlanError: It is, or the URI is none.
    """
    try:
        parts = urlsplit(uri)
    except ValueError as error:
        raise PlanError(f"{uri} is not a URI: {error}") from None
    transport = parts.scheme.rpartition("+")[2]
    if parts.netloc or transport in REMOTE:
        raise PlanError(
            f"{uri} is libvirt on another host: memory comes through a descriptor, which no network passes on",
            hint="run pydump on that host: ssh HOST pydump dump libvirt:DOMAIN -",
        )
