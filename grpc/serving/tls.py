"""Server certificates for the ext_proc port."""

import datetime
import ssl
import tempfile
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID

_VERSIONS = {
    "": ssl.TLSVersion.TLSv1_2,
    "VersionTLS10": ssl.TLSVersion.TLSv1,
    "VersionTLS11": ssl.TLSVersion.TLSv1_1,
    "VersionTLS12": ssl.TLSVersion.TLSv1_2,
    "VersionTLS13": ssl.TLSVersion.TLSv1_3,
}


class CertificateError(Exception):
    """The certificate or key cannot be used; the message names the file and what is wrong with it."""


def server_context(cert_path: str = "", min_version: str = "") -> ssl.SSLContext:
    """A context that speaks HTTP/2: with `tls.crt` and `tls.key` of a directory, or a self-signed certificate."""
    if min_version not in _VERSIONS:
        raise CertificateError(f"TLS version is {min_version!r}, wanted one of {sorted(_VERSIONS)[1:]}")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = _VERSIONS[min_version]
    context.set_alpn_protocols(["h2"])
    if cert_path:
        for file in _pair(cert_path):
            if not file.is_file():
                raise CertificateError(f"no file {file}, wanted tls.crt and tls.key in {cert_path}")
        _load_pair(context, cert_path)
    else:
        _load(context, _self_signed())
    return context


def _pair(cert_path: str) -> tuple[Path, Path]:
    return Path(cert_path) / "tls.crt", Path(cert_path) / "tls.key"


def _load_pair(context: ssl.SSLContext, cert_path: str) -> None:
    """Have new connections of `context` see the pair in the directory; `CertificateError`, and no change, without one."""
    certificate, key = _pair(cert_path)
    try:
        pair = certificate.read_bytes() + b"\n" + key.read_bytes()
        # A pair that does not match would leave the context with half of it.
        _load(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), pair)
        _load(context, pair)
    except (ssl.SSLError, OSError) as error:
        raise CertificateError(f"{certificate} and {key} are no usable pair: {error}") from error


def _load(context: ssl.SSLContext, pair: bytes) -> None:
    with tempfile.TemporaryDirectory(prefix="pointsman-tls-") as directory:
        file = Path(directory) / "pair.pem"
        file.touch(mode=0o600)
        file.write_bytes(pair)
        context.load_cert_chain(file)


class RenewedPair:
    """The pair in a directory, looked at again and again: `look` takes up another one.

    One that is looked at twice alike is whole, since certificate and key are not written at one moment.
    """

    def __init__(self, context: ssl.SSLContext, cert_path: str) -> None:
        self._context, self._path = context, cert_path
        self._in_force = self._seen = self._stamp()

    def look(self) -> str:
        """Take up another pair where there is one; return what to tell of it, empty where all is as it was."""
        seen, self._seen = self._seen, self._stamp()
        if self._seen == self._in_force or self._seen != seen:
            return ""
        self._in_force = self._seen
        try:
            _load_pair(self._context, self._path)
        except CertificateError as error:
            return f"{error}; the certificate that was in force stays"
        return f"the certificate in {self._path} was renewed and is in force"

    def _stamp(self) -> tuple[int, ...]:
        try:
            found = [file.stat() for file in _pair(self._path)]
        except OSError:
            return ()
        return tuple(number for one in found for number in (one.st_mtime_ns, one.st_ctime_ns, one.st_size, one.st_ino))


def _self_signed() -> bytes:
    """Key and certificate in PEM: nobody verifies it, gateways only encrypt.

    RSA, because cipher lists of the field name it; 2,048 bits, because 4,096 take a second to make.
    """
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    name = x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Inference Ext")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=3650))
        .sign(key, hashes.SHA256())
    )
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return secret + certificate.public_bytes(serialization.Encoding.PEM)
