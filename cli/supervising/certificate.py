"""The certificate of the ext_proc port, looked at before anything starts."""

from pointsman.cli.failure import Failure


def check_certificate(cert_path: str) -> None:
    """`Failure` where the pair in the directory cannot be used: a picker would end with it at every start."""
    from pointsman.grpc.serving.tls import CertificateError, server_context

    try:
        server_context(cert_path)
    except CertificateError as error:
        raise Failure(f"--cert-path: {error}") from error
