"""`shf check`: does what the configuration names exist, and does it answer?

Every server, health endpoint and recovery target is asked, and nothing is changed: a restart URL is the one
thing that cannot be tried. The findings are values, so that the command can print them and a test can read
them.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Collection, Generator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import httpx
import numpy as np
import yaml
from pydantic import ValidationError

from self_healing_fabric import outbound
from self_healing_fabric.deployment import deployment_files
from self_healing_fabric.diagnosis.sources import sources_of
from self_healing_fabric.diagnosis.sources.inquiry import Inquiry
from self_healing_fabric.errors import ConfigurationError, ShfError, StoreUnavailable, words_of
from self_healing_fabric.escalation.channels import channels
from self_healing_fabric.extensions import GROUPS, clashes, installed, make
from self_healing_fabric.orchestration.reconciliation import HEARD_AGAIN, ReceiverMissing, require_receiver
from self_healing_fabric.recovery.clocks import Clocks
from self_healing_fabric.recovery.configuration import configuration_of
from self_healing_fabric.recovery.platforms import platform_of
from self_healing_fabric.recovery.strategies.repair import Repair
from self_healing_fabric.routes import may_lead, signal_alerts
from self_healing_fabric.rules import (
    RuleParameters,
    check_rules,
    configured_parameters,
    digest_of,
    render_rules,
)
from self_healing_fabric.settings import AuthSettings, Right, ServiceSettings, Settings
from self_healing_fabric.store import clock_of, examine
from shf_queries import PrometheusClient, QueryError, Sample, Series, catalogue

ASKING_AT_ONCE = 16
MADE_WITHIN = 10.0  # seconds for what a plugin makes at the start
PROBE_TIMEOUT = 5.0  # seconds for a health endpoint
SCRAPES_WINDOW = 300.0  # seconds of scrapes that are looked at
SLOWER = 1.5  # times the configured interval: from here on the rules' windows hold too few samples


@dataclass(frozen=True)
class Finding:
    """What was asked and what was found or what to do. `ok` is None when there was nothing to ask."""

    subject: str
    ok: bool | None
    message: str


def run_checks(settings: Settings) -> Iterator[Finding]:
    """Yield the findings in a fixed order: rules, plugins, access, store, servers, services.

    Raises:
        ConfigurationError: `ca_file`, `cert_file` or `key_file` cannot be used.
    """
    for finding in _findings(settings):
        remedy = outbound.certificate_remedy(
            finding.message, authority="as `ca_file`", own="as `cert_file` and `key_file`"
        )
        remedy = remedy or _remedy_of_silence(finding)
        if remedy is not None:
            finding = replace(finding, message=f"{finding.message}. {remedy}")
        yield finding


def _remedy_of_silence(finding: Finding) -> str | None:
    """What to do where nobody answers at the address of a server; None where it is something else."""
    server, told = finding.subject.partition(" ")[0], finding.message
    if finding.ok is not False:
        return None
    named = f"`{server}.url`" if server in ("prometheus", "alertmanager") else None
    if told.startswith("health "):
        named = "`health` of the service"
    if named is not None and "does not answer: " in told:
        return f"Start it, or correct {named}: seen from a container, 127.0.0.1 is that container."
    if "the engine at " in told and "cannot be asked" in told:
        there = "Where it has a socket, a container needs that mounted, and the fabric's user its group"
        return f"Start it, or correct `recovery.docker.host` of the service. {there}."
    return None


def _findings(settings: Settings) -> Iterator[Finding]:
    yield from _rules()
    yield from _plugins(settings)
    yield from _access(settings.auth)
    yield _asked(
        "store",
        settings.store.partition(":")[0],
        lambda: examine(settings.store, settings.store_password_file),
    )
    client = outbound.prometheus_client(settings)
    try:
        fires = yield from _prometheus(client, settings)
    finally:
        client.close()
    yield from _alertmanager(settings, fires)
    with ThreadPoolExecutor(ASKING_AT_ONCE) as pool:
        for findings in pool.map(
            lambda item: list(_service(item[0], item[1], settings)), settings.services.items()
        ):
            yield from findings
    yield from _escalation(settings)
    if not settings.services:
        yield Finding("services", False, "none is configured: the fabric would act on nothing. Add them.")


def _plugins(settings: Settings) -> Iterator[Finding]:
    """What is installed, from which package; one that nobody names is not imported."""
    used = _used_plugins(settings)
    for group in GROUPS:
        for name, brought in installed(group).items():
            for plugin in brought:
                subject = f"plugin {group}/{name}"
                if plugin in clashes(group):
                    told = f"{plugin.distribution} {plugin.version} is never used: {name} is built in"
                    yield Finding(subject, False, f"{told}. Rename the plugin, or uninstall it.")
                    continue
                use = "used" if name in used[group] else "not named in the configuration, so not used"
                told = f"{plugin.distribution} {plugin.version}, {use}"
                mistake = _not_made(settings, group, name) if name in used[group] else None
                yield Finding(subject, mistake is None, mistake or told)


def _not_made(settings: Settings, group: str, name: str) -> str | None:
    """Why the fabric would not start with a plugin; a channel is made and asked below."""
    if group not in ("strategies", "guardrails", "event_sinks"):
        return None
    options = getattr(settings.plugins, group).get(name)
    try:
        make(group, name, settings, options, within=MADE_WITHIN)
    except ConfigurationError as error:
        return "; ".join(problem.message for problem in error.problems)
    return None


def _used_plugins(settings: Settings) -> Mapping[str, Collection[str]]:
    services = settings.services.values()
    return {
        "strategies": settings.plugin_strategies(),
        "platforms": {name for service in services for name in service.recovery.platform},
        "evidence_sources": {name for service in services for name in service.evidence_sources},
        "guardrails": settings.plugins.guardrails,
        "channels": {name for each in settings.escalation.channels.values() for name in each.plugin or ()},
        "event_sinks": settings.plugins.event_sinks,
    }


def _rules() -> Iterator[Finding]:
    promtool = shutil.which("promtool")
    paths = sorted(deployment_files("alert_rules").glob("*.rules.yml"))
    problems = check_rules(paths, promtool)
    for problem in problems:
        yield Finding("rules", False, problem)
    if not problems:
        by = "promtool" if promtool else "YAML only: promtool is not on PATH"
        yield Finding("rules", True, f"{len(paths)} shipped rule files are valid ({by})")


def _access(auth: AuthSettings) -> Iterator[Finding]:
    """Who may do what, and what nobody may: a fabric that nobody may stop is no safe one."""
    credentials = auth.credentials()
    if not credentials:
        yield Finding("access", True, "this machine only, where everybody may do everything")
        return
    callers: dict[bytes, str] = {}
    for each in credentials:
        name = each.caller or "auth.token_file"
        rights = ", ".join(right for right in Right if right in each.rights)
        try:
            secret = each.secret()
        except (OSError, UnicodeError) as error:
            yield Finding("access", False, f"{name}: {each.file} cannot be read: {error}")
            continue
        other = callers.setdefault(secret, name)
        if other != name:
            yield Finding("access", False, f"{name} has the secret of {other}: give each one of its own")
        else:
            yield Finding("access", True, f"{name} may: {rights}")
    for right in Right:
        if not any(right in each.rights for each in credentials):
            yield Finding("access", None, f"nobody has the right `{right}`")


def _rules_loaded(subject: str, settings: Settings, loaded: Collection[str | None]) -> Iterator[Finding]:
    try:
        parameters = RuleParameters(**configured_parameters(settings))
    except ValidationError as error:
        for detail in error.errors():
            yield Finding("rules", False, words_of(detail["msg"]))
        return
    at_own_interval = parameters.model_copy(update={"evaluation_interval": None})  # as they are shipped
    known = {digest_of(render_rules(each)) for each in (parameters, at_own_interval)}
    if not loaded or not known.issuperset(loaded):
        others = "its rules are not those that `shf rules` writes for this version and configuration"
        yield Finding(subject, None, f"{others}: deploy them again, unless they were written with --set")


def _prometheus(client: PrometheusClient, settings: Settings) -> Generator[Finding, None, bool]:
    """Returns whether its rules fire what always fires."""
    subject = f"prometheus {settings.prometheus.url}"
    try:
        loaded = client.instant(catalogue.watchdog())
        recorded = {sample.labels.get("service") for sample in client.instant(catalogue.HEARTBEAT.series)}
        names = settings.services
        scrapes = [
            each
            for selector in (catalogue.scrapes_of(names) if names else ())
            for each in client.raw(selector, seconds=SCRAPES_WINDOW)
        ]
        signals = client.instant(catalogue.recorded_lately(names)) if names else ()
        scraped = client.instant(catalogue.FABRIC)
        rules = client.instant(catalogue.RULES)
    except QueryError as error:
        yield Finding(subject, False, _with_credentials("prometheus", str(error)))
        return False
    yield Finding(subject, True, "answers queries")
    yield from _clocks(subject, client, settings)
    if not loaded:
        yield Finding(
            subject, False, "the shipped rules are not loaded: add the output of `shf rules` to `rule_files`"
        )
        return False
    yield Finding(subject, True, "evaluates the shipped rules")
    yield from _rules_loaded(subject, settings, {each.labels.get("digest") for each in rules})
    missing = sorted(set(settings.services) - recorded)
    interval = list(_scrape_interval(subject, scrapes, settings.prometheus.scrape_interval))
    yield from interval
    if missing and all(
        each.ok is not False for each in interval
    ):  # else that may be why, and is mended first
        remedy = "Name their job as the service, or give their targets the label `service`"
        yield Finding(subject, False, f"no heartbeat of: {', '.join(missing)}. {remedy}.")
    yield from _unprovable(subject, signals)
    if not scraped:  # a note: under another name it is first known when it has answered
        lost = "services whose targets vanish go unnoticed, and limits of single services are not in force"
        remedy = "Give it a job self-healing-fabric in prometheus.yml"
        yield Finding(subject, None, f"has not scraped the fabric: so {lost}. {remedy}.")
    return True


def _with_credentials(section: str, told: str) -> str:
    """What is told of a server, and where to name what it asks for."""
    if "it answers 401" not in told:
        return told
    basic, token = f"`{section}.username` and `{section}.password_file`", f"`{section}.bearer_token_file`"
    return f"{told}. Say who asks, as it expects it: {basic}, or {token}."


def _clocks(subject: str, client: PrometheusClient, settings: Settings) -> Iterator[Finding]:
    """Where they differ everything looks well, and nothing can be proved."""
    try:
        Clocks(client, lambda: clock_of(settings.store, settings.store_password_file)).require_alike()
    except QueryError as error:
        yield Finding(subject, False, str(error))
    except StoreUnavailable:
        return  # told of the store


def _unprovable(subject: str, signals: Sequence[Sample]) -> Iterator[Finding]:
    """What people record themselves is detected by one series and proved by another."""
    recorded = {(each.labels["service"], each.labels["signal_series"]) for each in signals}
    for service, series in sorted(recorded):
        for signal in catalogue.SIGNALS.values():
            if signal.series == series and (service, signal.fresh_series) not in recorded:
                recorded_one = f"{service}: {series} is recorded and {signal.fresh_series} is not"
                effect = "nothing would tell whether it still fails, so nothing would be done"
                remedy = "Record that too, as docs/how-to/own-metrics.md shows"
                yield Finding(subject, False, f"{recorded_one}: {effect}. {remedy}.")


def _scrape_interval(subject: str, scrapes: Sequence[Series], configured: float) -> Iterator[Finding]:
    """Rules made for 5 s load on a Prometheus that scrapes every 15 s, look right, and never fire."""
    medians = [float(np.median(np.diff(each.times))) for each in scrapes if each.times.size > 1]
    slowest = max(medians, default=None)
    if slowest is None:
        if scrapes:
            yield Finding(subject, None, "fewer than two scrapes of the services yet: look again in a moment")
        return
    if slowest <= SLOWER * configured:
        yield Finding(subject, True, f"scrapes the services every {slowest:.3g} s")
        return
    remedy = "set that to what it is and write the rules anew with `shf rules`"
    message = f"scrapes every {slowest:.3g} s, but prometheus.scrape_interval says {configured:g} s: {remedy}"
    yield Finding(subject, False, message)


def _alertmanager(settings: Settings, fires: bool) -> Iterator[Finding]:
    """`fires`: Prometheus is known to fire ShfWatchdog, so that Alertmanager has to have it."""
    if settings.alertmanager is None:
        yield Finding("alertmanager", None, "not configured: a lost notification is not found")
        return
    url, receiver = settings.alertmanager.url, settings.alertmanager.receiver
    subject = f"alertmanager {url}"
    try:
        headers = settings.alertmanager.headers()
        with outbound.client_for(settings.alertmanager, timeout=settings.alertmanager.timeout) as client:

            def ask(path: str, **query: str) -> Any:
                answer = client.get(f"{url}/api/v2/{path}", params=query, headers=headers)
                return outbound.succeeded(answer).json()

            require_receiver(receiver, [str(item["name"]) for item in ask("receivers")])
            yield Finding(subject, True, f"has the receiver {receiver}")
            yield from _silences(subject, ask)
            yield from _heard(subject, ask, receiver, settings.services, fires)
    except OSError as error:
        yield Finding(subject, False, f"cannot be asked: {error}")
    except httpx.TransportError as error:
        yield Finding(subject, False, f"does not answer: {error or type(error).__name__}")
    except ReceiverMissing as error:
        yield Finding(subject, False, str(error))
    except (httpx.HTTPError, ValueError, KeyError, TypeError) as error:
        told = f"does not answer as Alertmanager does: {error}"
        yield Finding(subject, False, _with_credentials("alertmanager", told))


def _silences(subject: str, ask: Callable[..., Any]) -> Iterator[Finding]:
    """What people have silenced between two alerts, nothing else tells."""
    try:
        ask("silences")
    except httpx.HTTPStatusError as error:
        hidden = f"does not show its silences: {error}. They do not hold between two alerts of an incident"
        yield Finding(subject, None, f"{hidden}. Let the fabric `GET /api/v2/silences` too.")


def _heard(
    subject: str, ask: Callable[..., Any], receiver: str, services: Collection[str], fires: bool
) -> Iterator[Finding]:
    """Whether alerts come to Alertmanager, and from there to us: nothing else tells of a missing link."""
    try:
        status = ask("status")
        since = time.time() - datetime.fromisoformat(status["uptime"]).timestamp()
        route = yaml.safe_load(status["config"]["original"])["route"]
        unrouted = list(_unrouted(subject, route, receiver, services))
    except (httpx.HTTPStatusError, yaml.YAMLError, ValueError, LookupError, TypeError, AttributeError):
        yield Finding(
            subject, None, "does not tell its routes: whether they lead to the receiver is not known"
        )
        return
    yield from unrouted
    if not fires:
        return
    if ask("alerts", filter='alertname="ShfWatchdog"'):
        yield Finding(subject, True, "gets the alerts of Prometheus")
    elif since < HEARD_AGAIN:
        yield Finding(subject, None, "has just started, and has no alert of Prometheus yet: look again soon")
    else:
        remedy = "Name it in prometheus.yml, under `alerting`; a minute later it hears"
        message = "does not have ShfWatchdog, which fires in Prometheus: its alerts do not get here"
        yield Finding(subject, False, f"{message}. {remedy}.")


def _unrouted(
    subject: str, route: Mapping[str, Any], receiver: str, services: Collection[str]
) -> Iterator[Finding]:
    """Which alerts certainly do not come to the receiver. That services are silent has to: without it nothing
    that dies is healed; another signal may be left to people on purpose."""
    alerts = list(signal_alerts(catalogue.SIGNALS))
    silent = {each["alertname"] for each in alerts if each["signal"] == catalogue.HEARTBEAT.name}
    lost: dict[tuple[str, ...], list[str]] = {}
    for service in services:
        led = [may_lead(route, {**each, "service": service}, receiver) for each in alerts]
        names = tuple(each["alertname"] for each, leads in zip(alerts, led, strict=True) if not leads)
        if names:
            lost.setdefault(names, []).append(service)
    for names, of in lost.items():
        message = f"no route leads these alerts of {', '.join(of)} to {receiver}: {', '.join(names)}"
        if silent.isdisjoint(names):
            yield Finding(subject, None, message)
        else:
            remedy = "Put the route of step 3 of the README before your own routes"
            yield Finding(subject, False, f"{message}. {remedy}.")
    if services and not lost:
        yield Finding(subject, True, f"leads the alerts of the services to {receiver}")


def _escalation(settings: Settings) -> Iterator[Finding]:
    """What each channel needs, without calling anybody; and contacts that nothing reaches."""
    known = channels(settings)
    for name, each in settings.escalation.channels.items():
        yield _asked(f"channel {name}", each.kind, known[name].check)
    called = {each for level in range(1, 5) for each in settings.escalation.contacts_of(level)}
    silent = sorted(contact for contact in called if not settings.escalation.channels_of(contact))
    if silent:
        message = f"only the log hears of calls to: {', '.join(silent)}"
        yield Finding("escalation", None, message)


def _service(name: str, service: ServiceSettings, settings: Settings) -> Iterator[Finding]:
    subject = f"service {name}"
    if service.health:
        yield _asked(subject, f"health {service.health}", lambda: _probe(service))
    if service.recovery.configuration is not None:
        yield _asked(subject, "configuration", lambda: _configuration(name, settings))
    if service.recovery.state is not None:
        yield _asked(subject, "state repair", lambda: Repair(settings).on(name).check())
    try:
        platform = platform_of(name, settings)
    except ShfError as error:
        yield Finding(subject, False, str(error))
        return
    # After the platform, which loads the client: that must not count against the answers.
    if service.recovery.kubernetes is not None:
        yield from _evidence(subject, name, service, settings)
    if platform is None and service.recovery.state is not None:
        return
    if platform is None and service.recovery.configuration is not None:
        yield Finding(subject, None, "has no recovery target: only its configuration will be healed")
    elif platform is None:
        yield Finding(subject, None, "has no recovery target: it will be watched and escalated, not healed")
    else:
        yield _asked(subject, f"{platform.name} recovery", platform.check)


def _evidence(subject: str, name: str, service: ServiceSettings, settings: Settings) -> Iterator[Finding]:
    """What the API server tells of a workload, and each right that is missing."""
    makers = sources_of(name, service, settings.kubernetes, service.depends_on)
    inquiry = Inquiry({"kubernetes": makers["kubernetes"]}, at=time.time(), within=settings.diagnosis.timeout)
    report = inquiry.report()
    for fact in report.facts[:1]:
        yield Finding(subject, True, f"kubernetes evidence: {fact.evidence.statement}")
    for missing in report.missing:
        yield Finding(subject, False, missing)


def _configuration(name: str, settings: Settings) -> str:
    """What a comparison of the wanted and the running configuration finds; its secrets are not told."""
    configuration = configuration_of(name, settings)
    return "none" if configuration is None else configuration.check()


def _asked(subject: str, what: str, ask: Callable[[], str]) -> Finding:
    try:
        return Finding(subject, True, f"{what}: {ask()}")
    except (ShfError, httpx.HTTPError) as error:
        return Finding(subject, False, f"{what}: {error or type(error).__name__}")


def _probe(service: ServiceSettings) -> str:
    with outbound.client_for(service, timeout=PROBE_TIMEOUT) as client:
        try:
            answer = client.get(str(service.health))
        except httpx.TransportError as error:
            raise ShfError(f"it does not answer: {error or type(error).__name__}") from error
    return f"answers {outbound.succeeded(answer).status_code}"
