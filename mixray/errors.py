"""What can go wrong through nobody's bug: an error says what, where, got, wanted and the remedy."""

from __future__ import annotations

import re


class MixrayError(Exception):
    """The base of every error a user can cause or meet.

    ``what`` is one sentence; the other parts are optional and printed one a line, without credentials.
    """

    def __init__(
        self,
        what: str,
        *,
        where: str | None = None,
        got: object | None = None,
        wanted: object | None = None,
        remedy: str | None = None,
    ) -> None:
        self.what, self.where, self.got, self.wanted, self.remedy = what, where, got, wanted, remedy
        parts = {"where": where, "got": got, "wanted": wanted, "remedy": remedy}
        lines = [f"  {name}: {value}" for name, value in parts.items() if value is not None]
        super().__init__(without_credentials("\n".join([what, *lines])))

    def __reduce__(self) -> tuple[object, ...]:
        """Errors cross process borders on Ray, keyword arguments, notes and all."""
        return _rebuild, (type(self), self.args), self.__dict__


def _rebuild(kind: type[MixrayError], args: tuple[object, ...]) -> MixrayError:
    return kind.__new__(kind, *args)


class InputError(MixrayError):
    """The user's input is wrong: run file, data, bounds, storage. The command ends with exit code 2."""


class CorruptedArtifactError(InputError):
    """A stored artifact is not what its manifest says."""


class StageError(MixrayError):
    """Work failed after it had started: a proxy diverged, a worker died too often. What is finished is kept."""


class Interrupted(KeyboardInterrupt):
    """The person interrupted the run in ``stage``. What is finished is stored; the same command continues."""

    def __init__(self, stage: str) -> None:
        self.stage = stage
        super().__init__(f"interrupted in {stage}; the same command continues")


def first_line(error: BaseException) -> str:
    """Return the first line of an error's text, or its class where it has none."""
    return str(error).strip().partition("\n")[0] or type(error).__name__


_OF_FILE_SYSTEMS = (
    "region scheme endpoint_override allow_bucket_creation allow_bucket_deletion allow_delayed_open "
    "check_directory_existence_before_creation force_virtual_addressing smart_defaults tls_ca_file_path "
    "tls_ca_dir_path tls_verify_certificates retry_limit_seconds"
)
_OF_DATABASES = (
    "application_name charset connect_timeout driver Encrypt mode options ssl ssl_ca sslcert sslmode sslrootcert "
    "timeout TrustServerCertificate"
)
PUBLIC_OPTIONS = frozenset(_OF_FILE_SYSTEMS.split() + _OF_DATABASES.split())
"""The options of URIs that hold no secret; every other option may."""
_PASSWORD = re.compile(r"://[^/@\s]*@")
_OPTIONS = re.compile(r"(://[^\s?'\"]*\?)([^\s'\")]*)")


def without_credentials(text: str) -> str:
    """Return a text whose URIs may be shown: without user, password, and the values of options that may be secrets."""
    return _OPTIONS.sub(
        lambda match: match[1] + "&".join(map(_masked, match[2].split("&"))), _PASSWORD.sub("://", text)
    )


def holds_secret(uri: str) -> bool:
    """Return whether a URI contains a password or the value of an option that may be a secret; a user alone is none."""
    options = [option for match in _OPTIONS.finditer(uri) for option in match[2].split("&")]
    return re.search(r"://[^/@\s:]*:[^/@\s]+@", uri) is not None or any(_masked(option) != option for option in options)


def canonical_uris(text: str) -> str:
    """Return a text whose URIs say where something is, and no more: without user, and with their options in order."""
    return _OPTIONS.sub(lambda match: match[1] + "&".join(sorted(match[2].split("&"))), _PASSWORD.sub("://", text))


def _masked(option: str) -> str:
    name, _, value = option.partition("=")
    return f"{name}=***" if value and name not in PUBLIC_OPTIONS else option
