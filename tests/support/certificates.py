"""A certificate authority, and a certificate of it for this machine."""

import datetime
import ipaddress
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


@dataclass(frozen=True)
class Authority:
    """certificate: of the authority, for clients; served: key and certificate of 127.0.0.1."""

    certificate: Path
    served: Path

    @classmethod
    def make(cls, folder: Path) -> Self:
        key, leaf_key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
        name, leaf_name = _name("tests"), _name("127.0.0.1")
        address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
        public = key.public_key()
        own = (
            _builder(name, name, public)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .sign(key, hashes.SHA256())
        )
        leaf = (
            _builder(leaf_name, name, leaf_key.public_key())
            .add_extension(x509.SubjectAlternativeName([address]), critical=False)
            .sign(key, hashes.SHA256())
        )
        made = cls(folder / "ca.pem", folder / "served.pem")
        pem = serialization.Encoding.PEM
        made.certificate.write_bytes(own.public_bytes(pem))
        private = leaf_key.private_bytes(
            pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        made.served.write_bytes(private + leaf.public_bytes(pem))
        return made

    def server_context(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.served)
        return context


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey
) -> x509.CertificateBuilder:
    day = datetime.timedelta(days=1)
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - day)
        .not_valid_after(now + day)
    )
