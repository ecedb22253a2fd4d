"""Finding, reading and judging the configuration file: every mistake at once, each under its path.

A person who fixes one typo must not be sent round again for the next, so what pydantic finds, what one field
says about another, and misspelt variables of the environment are reported together. Keys that nobody knows
are errors, because a misspelt guardrail that is silently ignored is a guardrail that is off.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_settings import EnvSettingsSource, SettingsError

from self_healing_fabric.durations import parse_duration
from self_healing_fabric.errors import ConfigurationError, Problem, UsageError, words_of
from self_healing_fabric.settings import (
    ENVIRONMENT_PREFIX,
    KubernetesRecovery,
    Right,
    SecretUnusable,
    Settings,
    VerificationSettings,
    is_loopback,
    read_secret,
    split_listen,
)

DEFAULT_FILE = Path("shf.yaml")
CONFIG_VARIABLE = "SHF_CONFIG"


def config_path(given: Path | None) -> Path:
    """Find the configuration file: the one given, else `SHF_CONFIG`, else `shf.yaml` here."""
    path = given or Path(os.environ.get(CONFIG_VARIABLE) or DEFAULT_FILE)
    if not path.is_file():
        raise UsageError(f"{path}: no such configuration file. Name one with --config or {CONFIG_VARIABLE}.")
    return path


def load_settings(path: Path) -> Settings:
    """Read and validate the configuration file.

    Raises:
        ConfigurationError: with every problem found, each under its path.
    """
    return validated(read_yaml(path), str(path))


def validated(raw: Mapping[str, Any], source: str) -> Settings:
    """Validate what a file holds, or a program says; `source` names it to people.

    Raises:
        ConfigurationError: with every problem found, each under its path.
    """
    # pydantic-settings takes such names as its own options, `_env_file` for example.
    problems = [Problem(key, "unknown setting") for key in raw if key.startswith("_")]
    problems += _unknown_variables()
    settings: Settings | None = None
    try:
        settings = Settings(**{key: value for key, value in raw.items() if not key.startswith("_")})
    except SettingsError as error:
        problems.append(Problem("environment", f"{error}: give JSON"))
    except ValidationError as error:
        variables = _Variables()
        problems += [_problem(each["loc"], each["msg"], each["type"], variables) for each in error.errors()]
    problems += _cross_references(settings.model_dump() if settings else raw)
    if settings is None or problems:
        raise ConfigurationError(source, sorted(set(problems), key=lambda problem: problem.path))
    return settings


class _Loader(yaml.SafeLoader):
    """Refuses a key that is given twice: YAML would silently drop the first `guardrails`."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"`{key.value}` is given twice", key.start_mark
                )
            seen.add(key.value if isinstance(key, yaml.ScalarNode) else id(key))
        return super().construct_mapping(node, deep)


def read_yaml(path: Path) -> dict[str, Any]:
    """What the file holds, not yet validated. Raises ConfigurationError, UsageError."""
    try:
        raw = yaml.load(path.read_text(encoding="utf-8"), _Loader)  # noqa: S506 - a safe loader
    except (yaml.YAMLError, ValueError) as error:  # ValueError: no UTF-8, or a date that does not exist
        raise ConfigurationError(str(path), [Problem("", f"not valid YAML: {error}")]) from error
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from error
    if raw is None:
        return {}
    if not isinstance(raw, dict) or not all(isinstance(key, str) for key in raw):
        raise ConfigurationError(
            str(path), [Problem("", "the file must hold names and values, as `listen: ...`")]
        )
    return raw


class _Variables:
    """What the environment sets, by which variable: a mistake there is not to be looked for in the file."""

    def __init__(self) -> None:
        self._values = EnvSettingsSource(Settings)()
        self._names = {name.lower(): name for name in os.environ}

    def path_of(self, location: Sequence[str | int]) -> str:
        """Where a mistake is, for people: its path, and the variable that sets it."""
        path = ".".join(map(str, location))
        value: Any = self._values
        for part in location:
            if isinstance(value, Mapping):
                value = value.get(part)
        if value is None or isinstance(value, Mapping):  # a section holds what both say
            return path
        tries = ("__".join(map(str, location[:end])) for end in range(len(location), 0, -1))
        variables = (self._names.get(f"{ENVIRONMENT_PREFIX}{each}".lower()) for each in tries)
        return f"{path} (environment {next(filter(None, variables))})"


def _problem(location: tuple[str | int, ...], message: str, kind: str, variables: _Variables) -> Problem:
    # A wrong name among names of the user's own is told under that name.
    path = variables.path_of([part for part in location if part != "[key]"])
    if kind == "extra_forbidden":
        return Problem(path, f"unknown setting{_suggestion(location)}")
    if kind in ("model_type", "dict_type", "mapping_type"):
        return Problem(path, "must hold names and values, as `name: value`, or nothing")
    if kind in ("tuple_type", "frozen_set_type"):
        return Problem(path, "must hold a list, as `[first, second]`")
    return Problem(path, words_of(message))


def _suggestion(location: tuple[str | int, ...]) -> str:
    """Name the nearest known setting: most unknown keys are typos."""
    section: type[BaseModel] | None = Settings
    for part in location[:-1]:
        field = section.model_fields.get(str(part)) if section else None
        if field is not None:  # else the part is a name under `services`, which holds the same model for all
            section = _section_of(field.annotation)
    if section is None:
        return ""
    nearest = difflib.get_close_matches(str(location[-1]), list(section.model_fields), n=1)
    return (
        f"; did you mean `{nearest[0]}`?" if nearest else f"; known here: {', '.join(section.model_fields)}"
    )


def _section_of(annotation: Any) -> type[BaseModel] | None:
    """The model inside an annotation: `Section`, `Section | None`, or the values of a mapping."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    inner = [_section_of(part) for part in get_args(annotation)]
    return next((section for section in inner if section is not None), None)


# What Kubernetes sets in every pod for a Service that is called `shf`.
_OF_KUBERNETES = re.compile(r"SHF_(SERVICE_HOST|SERVICE_PORT.*|PORT|PORT_\d+_.*)")


def _unknown_variables() -> Iterator[Problem]:
    """A misspelt SHF_ variable would be ignored by pydantic-settings: report it."""
    for name in os.environ:
        if _OF_KUBERNETES.fullmatch(name):
            continue
        if name.startswith(ENVIRONMENT_PREFIX) and name != CONFIG_VARIABLE:
            field = name.removeprefix(ENVIRONMENT_PREFIX).split("__")[0].lower()
            if field not in Settings.model_fields:
                yield Problem(f"environment {name}", f"no setting is called `{field}`{_suggestion((field,))}")


def _cross_references(raw: Mapping[str, Any]) -> Iterator[Problem]:
    """What one field says about another. Works on raw values, so that it reports beside other mistakes."""
    services = raw.get("services")
    services = services if isinstance(services, Mapping) else {}
    for name, service in services.items():
        if not isinstance(service, Mapping):
            continue
        dependencies = service.get("depends_on")
        for index, dependency in enumerate(dependencies if isinstance(dependencies, list | tuple) else ()):
            if not isinstance(dependency, str):
                continue  # its type is reported already
            if dependency == name:
                yield Problem(f"services.{name}.depends_on.{index}", "a service cannot depend on itself")
            elif dependency not in services:
                hint = difflib.get_close_matches(dependency, map(str, services), n=1)
                more = f"; did you mean `{hint[0]}`?" if hint else "; add it under `services`"
                yield Problem(
                    f"services.{name}.depends_on.{index}", f"no service is called `{dependency}`{more}"
                )
        recovery = service.get("recovery")
        if isinstance(recovery, Mapping) and recovery.get("http") and recovery.get("docker"):
            yield Problem(f"services.{name}.recovery", "give one platform, not both http and docker")
        yield from _namespace_problems(raw, str(name), recovery)
    yield from _listen_problems(raw)
    yield from _verification_problems(raw)


def _namespace_problems(raw: Mapping[str, Any], name: str, recovery: Any) -> Iterator[Problem]:
    """A workload in a namespace that is not listed can neither be read nor repaired, by no misspelt name."""
    kubernetes = raw.get("kubernetes")
    allowed = kubernetes.get("namespaces") if isinstance(kubernetes, Mapping) else None
    workload = recovery.get("kubernetes") if isinstance(recovery, Mapping) else None
    if not isinstance(allowed, list | tuple) or not allowed or not isinstance(workload, Mapping):
        return
    namespace = workload.get("namespace", KubernetesRecovery.model_fields["namespace"].default)
    if namespace not in allowed:
        listed = ", ".join(map(str, allowed))
        yield Problem(
            f"services.{name}.recovery.kubernetes.namespace",
            f"`{namespace}` is not in kubernetes.namespaces ({listed})",
        )


def _listen_problems(raw: Mapping[str, Any]) -> Iterator[Problem]:
    # The environment wins over the file here too, or a container's token would be reported as missing.
    listen = os.environ.get("SHF_LISTEN") or raw.get("listen", Settings.model_fields["listen"].default)
    try:
        host, _ = split_listen(str(listen))
    except ValueError:
        return
    auth = raw.get("auth")
    auth = auth if isinstance(auth, Mapping) else {}
    of_environment = os.environ.get("SHF_AUTH__TOKEN_FILE")
    token_file = of_environment or auth.get("token_file")
    callers = auth.get("callers")
    callers = callers if isinstance(callers, Mapping) else {}
    if token_file:
        where = "auth.token_file" + (" (environment SHF_AUTH__TOKEN_FILE)" if of_environment else "")
        yield from _secret_file_problems(where, Path(str(token_file)))
    elif not is_loopback(host) and not any(map(_may_act, callers.values())):
        yield Problem(
            "auth.token_file",
            f"`listen` on {host} is reachable from outside: give a file with a token here, "
            "or `auth.callers` of which one may send or control",
        )
    for name, caller in callers.items():
        for key in ("token_file", "password_file"):
            if isinstance(caller, Mapping) and caller.get(key):
                yield from _secret_file_problems(f"auth.callers.{name}.{key}", Path(str(caller[key])))


def _may_act(caller: Any) -> bool:
    rights = caller.get("rights") if isinstance(caller, Mapping) else None
    return isinstance(rights, list | tuple) and any(each in (Right.SEND, Right.CONTROL) for each in rights)


def _secret_file_problems(where: str, path: Path) -> Iterator[Problem]:
    try:
        read_secret(path)
    except SecretUnusable as error:
        yield Problem(where, str(error))


def _verification_problems(raw: Mapping[str, Any]) -> Iterator[Problem]:
    verification = raw.get("verification")
    if not isinstance(verification, Mapping):
        return
    fields = VerificationSettings.model_fields
    try:
        stability, deadline = (
            parse_duration(verification.get(name, fields[name].default)) for name in ("stability", "deadline")
        )
    except ValueError:
        return  # reported already
    if deadline < 2 * stability:
        yield Problem("verification.deadline", f"must be at least twice `stability` ({stability:g} s)")
