"""No connection leaves a test: for suites that must prove they run offline."""

from __future__ import annotations

import ipaddress
import socket
import sys
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Generator

__all__ = ["blocked"]

_NOTHING = object()


@contextmanager
def blocked(allowed: Collection[str]) -> Generator[None, None, None]:
    """Refuse every connection and name look-up of this process to hosts that are not ``allowed``; local (Unix) sockets pass.

    A host that is allowed by its name is allowed by the addresses it is found to have.

    Raises:
        NetworkBlocked: out of the call that would have left, naming the host.

    Not thread-safe: patches the socket module while it is entered.
    """
    guard = _Guard(allowed)
    with ExitStack() as patches:
        for name in ("connect", "connect_ex"):
            patches.enter_context(_patched(socket.socket, name, guard.connection))
        for name in ("sendto", "sendmsg"):
            patches.enter_context(_patched(socket.socket, name, guard.datagram))
        for name in ("getaddrinfo", "gethostbyname", "gethostbyname_ex"):
            patches.enter_context(_patched(socket, name, guard.name, guard.found))
        yield


class _Guard:
    """Looks at the arguments of calls that would leave."""

    def __init__(self, allowed: Collection[str]) -> None:
        self._allowed = set(allowed)

    def connection(self, arguments: tuple[Any, ...]) -> None:
        try:
            self._address(arguments[1])
        except BaseException:
            arguments[0].close()  # whoever opened it expects an OSError, and would leave it open
            raise

    def datagram(self, arguments: tuple[Any, ...]) -> None:
        self._address(arguments[-1])

    def name(self, arguments: tuple[Any, ...]) -> None:
        host = arguments[0]
        if host not in (None, "", b"") and not _is_number(host):  # a number is looked up without the network
            self._host(host)

    def found(self, arguments: tuple[Any, ...], answer: Any) -> None:
        """A name that could be looked up is allowed, and so is what it stands for."""
        if not _is_number(arguments[0]):
            addresses = (
                [entry[4][0] for entry in answer] if isinstance(answer, list) else [answer] if isinstance(answer, str) else answer[2]
            )
            self._allowed.update(addresses)

    def _address(self, address: object) -> None:
        if isinstance(address, tuple) and address:
            self._host(address[0])

    def _host(self, host: object) -> None:
        if isinstance(host, bytes):
            host = host.decode("ascii", "replace")
        # On Windows a pair of sockets, which every event loop needs, is a connection to oneself.
        if isinstance(host, str) and host not in self._allowed and not (sys.platform == "win32" and host in ("127.0.0.1", "::1")):
            from seedbed.errors import NetworkBlocked

            raise NetworkBlocked(
                f"a test tried to reach {host}, and --seedbed-block-network forbids it: record what it needs with --seedbed-record=new, "
                "or name the host in the setting seedbed_allowed_hosts"
            )


@contextmanager
def _patched(
    owner: Any,
    name: str,
    check: Callable[[tuple[Any, ...]], None],
    learn: Callable[[tuple[Any, ...], Any], None] = lambda _, __: None,
) -> Generator[None, None, None]:
    real, own = getattr(owner, name, None), vars(owner).get(name, _NOTHING)
    if real is None:  # not every system has sendmsg
        yield
        return

    def checked(*arguments: Any, **more: Any) -> Any:
        given = arguments or tuple(more.values())
        check(given)
        answer = real(*arguments, **more)
        learn(given, answer)
        return answer

    setattr(owner, name, checked)
    try:
        yield
    finally:
        if own is _NOTHING:
            delattr(owner, name)  # it was inherited, and is again
        else:
            setattr(owner, name, own)


def _is_number(host: object) -> bool:
    try:
        ipaddress.ip_address(host.decode() if isinstance(host, bytes) else str(host))
    except ValueError:
        return False
    return True
