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
        certificate, key = Path(cert_path) / "tls.crt", Path(cert_path) / "tls.key"
        for file in (certificate, key):
            if not file.is_file():
                raise CertificateError(f"no file {file}, wanted tls.crt and tls.key in {cert_path}")
        try:
            context.load_cert_chain(certificate, key)
        except (ssl.SSLError, OSError) as error:
            raise CertificateError(f"{certificate} and {key} are no usable pair: {error}") from error
        return context
    with tempfile.TemporaryDirectory(prefix="pointsman-tls-") as directory:
        pair = Path(directory) / "pair.pem"
        pair.touch(mode=0o600)
        pair.write_bytes(_self_signed())
        context.load_cert_chain(pair)
    return context


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
