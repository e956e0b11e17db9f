"""The TLS of a SIP adapter: our certificate and whom we believe, renewed without a restart."""

from __future__ import annotations

import os
import ssl
from typing import Final

from gateway.adapters.base import Host
from gateway.adapters.sip.config import SipSection, VerifyClients
from gateway.errors import DeviceError

_VERIFY: Final = {
    VerifyClients.NO: ssl.CERT_NONE,
    VerifyClients.OPTIONAL: ssl.CERT_OPTIONAL,
    VerifyClients.REQUIRED: ssl.CERT_REQUIRED,
}
_Stamps = tuple[tuple[int, int] | None, ...]


class Keys:
    """Contexts for handshakes, made of the files of ``[adapters.sip.tls]``.

    Connections that stand keep what they began with.
    """

    def __init__(self, config: SipSection, host: Host) -> None:
        self._config, self._host = config.tls, host
        self._serves = any(text.startswith("tls:") for text in config.listen)
        self._stamps: _Stamps = ()
        self._server: ssl.SSLContext | None = None
        self._client: ssl.SSLContext | None = None
        self._blind: ssl.SSLContext | None = None

    def load(self) -> None:
        """Read the files. Raises `DeviceError` naming the file and what is wrong with it."""
        stamps = self._look()
        config = self._config
        try:
            client = ssl.create_default_context(cafile=config.ca_file or None)
            # Names are compared by the rules of SIP, not by those of the web (RFC 5922).
            client.check_hostname = False
            blind = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            blind.check_hostname, blind.verify_mode = False, ssl.CERT_NONE
            contexts = [client, blind]
            server = None
            if self._serves:
                server = ssl.create_default_context(
                    ssl.Purpose.CLIENT_AUTH, cafile=config.ca_file or None
                )
                server.verify_mode = _VERIFY[config.clients]
                contexts.append(server)
            for context in contexts:
                context.minimum_version = ssl.TLSVersion.TLSv1_2
                # A peer could make us compute handshake after handshake on one connection.
                context.options |= ssl.OP_NO_RENEGOTIATION
                if config.cert_file:
                    # A passphrase would make the library ask on an unattended box's terminal.
                    context.load_cert_chain(config.cert_file, config.key_file or None, password="")
        except (OSError, ValueError) as error:
            files = ", ".join(f for f in (config.cert_file, config.key_file, config.ca_file) if f)
            raise DeviceError(f"TLS: {error} ({files})") from None
        self._server, self._client, self._blind, self._stamps = server, client, blind, stamps

    def refresh(self) -> None:
        """Take files that changed; damaged or half-written ones are not taken, and told once."""
        stamps = self._look()
        # What was never loaded is read when it is first wanted.
        if not self._stamps or stamps == self._stamps:
            return
        try:
            self.load()
        except DeviceError as error:
            self._stamps = stamps
            self._host.count("certificate_refused")
            self._host.log.error("new certificate refused, the present one stays", why=str(error))
        else:
            self._host.count("certificate_reloads")
            self._host.log.info("certificate renewed", file=self._config.cert_file)

    def server(self) -> ssl.SSLContext:
        """For the next peer that connects."""
        assert self._server is not None
        return self._server

    def client(self, *, verify: bool) -> ssl.SSLContext:
        """For the next connection of ours."""
        found = self._client if verify else self._blind
        if found is None:
            self.load()
            return self.client(verify=verify)
        return found

    def _look(self) -> _Stamps:
        config = self._config
        return tuple(map(_stamp, (config.cert_file, config.key_file, config.ca_file)))


def _stamp(path: str) -> tuple[int, int] | None:
    """What changes when a file is written or replaced."""
    if not path:
        return None
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino
