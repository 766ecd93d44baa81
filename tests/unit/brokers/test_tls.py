"""The files of TLS: which cannot be used, and that this is told without their passwords."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured

from django_outbox.brokers.confluent import options as confluent_options
from django_outbox.brokers.kafka import options as kafka_options
from django_outbox.brokers.tls import TLS
from tests.support.brokers.backends import Backend
from tests.support.servers.certificates import KEY_PASSWORD, Certificates


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
def tls(certificates: Certificates) -> TLS:
    """All that a client may need, with an encrypted key."""
    mine = certificates.client
    return TLS(str(mine.authority), str(mine.certificate), str(mine.locked_key), KEY_PASSWORD)


def test_what_can_be_used_is_used(tls: TLS, certificates: Certificates) -> None:
    context = tls.context()
    assert context.check_hostname
    assert len(context.get_ca_certs()) >= 1
    replace(tls, keyfile=str(certificates.client.key), password=None).context()
    replace(tls, certfile=str(certificates.client.both), keyfile=None, password=None).context()
    replace(tls, cafile=str(certificates.client.authority.parent)).context()
    assert not replace(tls, checks_name=False).context().check_hostname
    assert not TLS(checks=False).context().check_hostname


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"cafile": "/nowhere/ca.pem"}, "the file that ssl_cafile names cannot be read (No such file or directory)"),
        ({"cafile": "/nowhere\0"}, "the file that ssl_cafile names cannot be read (not a valid path)"),
        ({"cafile": "key"}, "the file that ssl_cafile names does not contain a certificate in PEM format"),
        ({"certfile": "/nowhere"}, "the file that ssl_certfile names cannot be read (No such file or directory)"),
        ({"certfile": "/"}, "the file that ssl_certfile names cannot be read (Is a directory)"),
        ({"keyfile": "/nowhere"}, "the file that ssl_keyfile names cannot be read (No such file or directory)"),
        ({"keyfile": "authority"}, "the file that ssl_keyfile (or, without it"),
        (
            {"keyfile": None},
            "the file that ssl_keyfile (or, without it, ssl_certfile) names does not contain a key in PEM format",
        ),
        ({"password": None}, "the key in ssl_keyfile is encrypted, and ssl_password is missing"),
        ({"password": "wr0ng-s3cret"}, "the key in ssl_keyfile is encrypted, and ssl_password is wrong"),
        ({"certfile": "key", "keyfile": "key"}, "ssl_certfile and ssl_keyfile must name a certificate and its key"),
        ({"keyfile": "another"}, "the key in ssl_keyfile does not belong to the certificate in ssl_certfile"),
    ],
)
def test_what_cannot_be_used_is_named(
    tls: TLS, certificates: Certificates, changes: dict[str, str], reason: str, capfd: pytest.CaptureFixture[str]
) -> None:
    mine = certificates.client
    files = {"key": mine.key, "authority": mine.authority, "another": certificates.stranger.key}
    changed = replace(tls, **{name: str(files.get(value, value)) if value else None for name, value in changes.items()})
    with pytest.raises(ImproperlyConfigured) as raised:
        changed.context()
    text = str(raised.value)
    assert text.startswith(f'OUTBOX["BROKER"]: {reason}')
    assert raised.value.__suppress_context__
    assert not any(secret in text + repr(changed) for secret in (KEY_PASSWORD, "wr0ng-s3cret"))
    assert capfd.readouterr() == ("", "")  # OpenSSL has asked nobody for a password


@pytest.mark.parametrize(
    ("name", "value", "field", "found"),
    [
        ("ssl.ca.location", "/ca.pem", "cafile", "/ca.pem"),
        ("ssl.ca.location", "probe", "cafile", None),
        ("ssl.certificate.location", "/c.pem", "certfile", "/c.pem"),
        ("ssl.key.location", "/c.key", "keyfile", "/c.key"),
        ("ssl.key.password", "s3cret", "password", "s3cret"),
        ("ssl.endpoint.identification.algorithm", "none", "checks_name", False),
        ("enable.ssl.certificate.verification", "false", "checks", False),
        ("enable.ssl.certificate.verification", False, "checks", False),
        ("ssl.keystore.location", "/store.p12", "complete", False),
    ],
)
def test_librdkafka_s_options_are_understood(name: str, value: Any, field: str, found: Any) -> None:
    assert getattr(confluent_options.tls_files({name: value}), field) == found
    assert getattr(confluent_options.tls_files({}), field) == getattr(TLS(), field)


def test_kafka_python_s_options_are_understood() -> None:
    options = {"ssl_cafile": "/a", "ssl_certfile": "/c", "ssl_keyfile": "/k", "ssl_password": "s3cret"}
    assert kafka_options.tls_files(options) == TLS("/a", "/c", "/k", "s3cret")
    assert not kafka_options.tls_files({"ssl_context": object()}).complete
    assert not kafka_options.tls_files({"ssl_check_hostname": False}).checks_name


def test_a_file_that_is_missing_is_a_wrong_setting_before_any_server_is_asked(backend: Backend, tmp_path: Path) -> None:
    broker = backend.make(f"kafka+ssl://127.0.0.1:1?ssl_cafile={tmp_path}/ca.pem")
    with pytest.raises(ImproperlyConfigured, match=r"the file that ssl_cafile.* names cannot be read"):
        broker.missing_topics(["topic"])
