"""The `shf` command. Exit status: 0 well, 1 failed, 2 wrong usage or configuration; never a traceback.

Everything that takes long is imported by the command that needs it, so `shf --help` answers at once.
"""

from __future__ import annotations

import errno
import json
import os
import signal
import sys
from collections.abc import Callable, Iterable
from functools import wraps
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from self_healing_fabric import __version__
from self_healing_fabric.errors import ConfigurationError, ShfError, UsageError
from self_healing_fabric.quoting import quoted

Command = Callable[..., Any]

OTHER_THREADS = 50  # of `shf serve` beside its workers: 32 answer, the rest are its loops
WITHOUT_CONFIGURATION = (
    "A fabric that runs is asked without it, too: shf COMMAND --url http://127.0.0.1:9931 (its address), "
    "with --token-file FILE where it asks for a token."
)

config_option = click.option(
    "--config",
    type=click.Path(path_type=Path),
    help="Configuration file (default: $SHF_CONFIG, else shf.yaml).",
)
url_option = click.option("--url", help="Base URL of the running fabric (default: from the configuration).")
token_option = click.option(
    "--token-file",
    type=click.Path(path_type=Path),
    help="File with the API token (default: from the configuration).",
)
user_option = click.option("--user", help="User name, instead of a token (default: from the configuration).")
password_option = click.option(
    "--password-file", type=click.Path(path_type=Path), help="File with the password of --user."
)


ca_option = click.option(
    "--ca-file",
    type=click.Path(path_type=Path),
    help="Certificates (PEM) of authorities to trust beside the public ones, for --url https://...",
)


cert_option = click.option(
    "--cert-file",
    type=click.Path(path_type=Path),
    help="Certificate (PEM) to show to a proxy that asks for one, for --url https://...",
)
key_option = click.option("--key-file", type=click.Path(path_type=Path), help="Its private key (PEM).")


def access_options(command: Command) -> Command:
    """Where the fabric runs and as whom to call it: taken as `**where`, given to `_api`."""
    for option in (
        key_option, cert_option, ca_option, password_option, user_option, token_option, url_option,
        config_option,
    ):  # fmt: skip
        command = option(command)
    return command


def said_options(who: str, why: str) -> Callable[[Command], Command]:
    """Who says something about an incident, and why: taken as `by` and `reason`, given to `_said`."""

    def add(command: Command) -> Command:
        command = click.option("--reason", help=f"{why}, for the timeline.")(command)
        return click.option("--by", default="", help=f"{who} (default: the system's user name).")(command)

    return add


json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def _errors_as_sentences(command: Command) -> Command:
    @wraps(command)
    def run(*arguments: Any, **options: Any) -> Any:
        try:
            return command(*arguments, **options)
        except (UsageError, ConfigurationError) as error:
            click.echo(f"shf: {error}", err=True)
            sys.exit(2)
        except ShfError as error:
            click.echo(f"shf: {error}", err=True)
            sys.exit(1)

    return run


def _answers_as_sentences(command: Command) -> Command:
    """Of a command that reads the answers of a running fabric, which may be of any version, or none."""

    @wraps(command)
    def run(*arguments: Any, **options: Any) -> Any:
        try:
            return command(*arguments, **options)
        except (LookupError, TypeError, AttributeError, ValueError) as error:
            raise ShfError(
                f"what answered is no fabric of version {__version__}, as this command is "
                f"({type(error).__name__}: {error}). --json prints its answer as it came"
            ) from error

    return _errors_as_sentences(run)


# Of a write to standard output, which has no name: what the commands do with files names the file.
_UNWRITABLE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF})

_NO_MEMORY = "failed to map segment"  # what the loader of a library says, and numpy repeats


class _Commands(click.Group):
    """All commands; also what cannot be printed, or has no memory to run, ends with a sentence."""

    def main(self, *arguments: Any, **options: Any) -> Any:
        """As click's, which knows a closed pipe and nothing else."""
        try:
            return super().main(*arguments, **options)
        except (MemoryError, ImportError) as error:
            if isinstance(error, ImportError) and _NO_MEMORY not in str(error):
                raise
            click.echo(
                "shf: there is too little memory. Raise the limit (`memory` of a container, `MemoryMax` of "
                "systemd, `ulimit -v`).",
                err=True,
            )
            sys.exit(1)
        except OSError as error:
            if error.errno not in _UNWRITABLE or error.filename is not None:
                raise
            click.echo(f"shf: the output cannot be written: {error.strerror}", err=True)
            # Python writes what is left when it ends, and would complain once more.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(1)


@click.group(
    cls=_Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
@click.version_option(__version__, prog_name="shf")
def main() -> None:
    """Self-Healing Fabric: heals what Prometheus alerts on, and proves it."""


@main.command()
@config_option
@click.option("--log-format", type=click.Choice(["auto", "json", "text"]), default="auto", show_default=True,
              help="auto: text on a terminal, JSON otherwise.")  # fmt: skip
@_errors_as_sentences
def serve(config: Path | None, log_format: str) -> None:
    """Take notifications and heal, until SIGTERM, SIGHUP or Ctrl-C; what is in hand is finished first.

    SIGHUP is what a terminal that is closed sends; the configuration is read at the start only. A second
    Ctrl-C ends it at once: what was in hand is then looked up at the target at the next start.
    """
    # PID 1 of a container ignores SIGTERM until it has a handler, and the imports take a second.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    if sys.stderr is None:  # whoever started it has closed it; its number must not become another file's
        sys.stderr = Path(os.devnull).open("w")  # noqa: SIM115 - until the process ends
    from self_healing_fabric.app import serve as run
    from self_healing_fabric.configuration import config_path, load_settings
    from self_healing_fabric.integration.lifecycle import Fabric
    from self_healing_fabric.orchestration.caller import SENDERS
    from self_healing_fabric.telemetry import configure_logging

    settings = load_settings(config_path(config))
    configure_logging(json=log_format == "json" or (log_format == "auto" and not sys.stderr.isatty()))
    try:
        run(Fabric(settings))
    except OSError as error:
        raise ShfError(f"cannot listen on {settings.listen}: {error.strerror or error}") from error
    except RuntimeError as error:
        if "start new thread" not in str(error):
            raise
        calling = SENDERS * len(settings.escalation.channels)
        needed = settings.workers + calling + OTHER_THREADS
        raise ShfError(
            f"the system allows too few threads; with {settings.workers} `workers` some {needed} are needed. "
            "Raise the limit (`pids` of a container, `TasksMax` of systemd, `ulimit -u`, memory), or lower "
            "`workers`."
        ) from error


@main.command()
@config_option
@json_option
@_errors_as_sentences
def check(config: Path | None, as_json: bool) -> None:
    """Validate the configuration and the rules, and ask every server that they name."""
    from self_healing_fabric.check import run_checks
    from self_healing_fabric.configuration import config_path, load_settings

    path = config_path(config)
    settings = load_settings(path)
    if not as_json:
        Console(highlight=False, soft_wrap=True).print(f"[green]ok[/]    {escape(str(path))}: valid")
    _tell_findings(run_checks(settings), lambda finding: finding.subject, as_json)


@main.command()
@click.option("--keep", is_flag=True, help="Leave everything running afterwards and print the addresses.")
@click.option(
    "--shipped-durations", is_flag=True, help="Use the rules' real durations: slower, nothing shortened."
)
@click.option("--fault", "faults", multiple=True, help="Inject only this kind of fault (may repeat).")
@_errors_as_sentences
def demo(keep: bool, shipped_durations: bool, faults: tuple[str, ...]) -> None:
    """Break sample services on real servers and watch them being healed."""
    from shf_demo.runner import run

    sys.exit(run(keep=keep, shipped_durations=shipped_durations, faults=list(faults) or None))


@main.command()
@click.argument("incident_id", required=False, metavar="[ID]")
@click.option("--state", "states", multiple=True, help="Only incidents in this state (may repeat).")
@click.option("--service", help="Only incidents of this service.")
@click.option("--message", help="Only incidents of which this message told people.")
@click.option("--limit", default=50, show_default=True, type=click.IntRange(1), help="At most so many.")
@click.option("--watch", "watching", is_flag=True, help="Go on and show what changes, until Ctrl-C.")
@click.option("--interval", default="2s", show_default=True, help="Between two looks of --watch.")
@access_options
@json_option
@_answers_as_sentences
def incidents(
    incident_id: str | None,
    states: tuple[str, ...],
    service: str | None,
    message: str | None,
    limit: int,
    watching: bool,
    interval: str,
    as_json: bool,
    **where: Any,
) -> None:
    """List incidents, newest first, or show one with its whole story.

    With --watch a terminal shows the list drawn anew, anything else gets a line for each change; of one
    incident, what is added to its timeline, until it is closed. With --json these are lines of JSON.
    """
    from self_healing_fabric import screens, watch

    api = _api(**where)
    console = Console(highlight=False)
    chosen = {"service": service, "message": message}
    filters = {"state": list(states)} | {name: value for name, value in chosen.items() if value}
    if watching:
        how: dict[str, Any] = {"interval": _pause(interval), "as_json": as_json, "console": console}
        if incident_id is not None:
            watch.watch_incident(api, incident_id, **how)
        else:
            watch.watch_list(api, filters, limit, **how)
        return
    if incident_id is not None:
        story = api.incident(incident_id)
        click.echo(json.dumps(story, indent=2)) if as_json else screens.show_incident(console, story)
        return
    page = api.incidents(filters, limit)
    click.echo(json.dumps(page, indent=2)) if as_json else screens.list_incidents(console, page["incidents"])
    if page.get("next_cursor") is not None:
        click.echo(f"note: these are the newest {limit}; --limit shows more", err=True)


@main.command()
@click.argument("service", required=False, metavar="[SERVICE]")
@config_option
@json_option
@_errors_as_sentences
def drift(service: str | None, config: Path | None, as_json: bool) -> None:
    """Compare running configurations with the wanted ones, now; secrets are masked. Exits with 1 on drift."""
    from self_healing_fabric import screens
    from self_healing_fabric.configuration import config_path, load_settings
    from self_healing_fabric.recovery.configuration import reports

    settings = load_settings(config_path(config))
    if service is not None and service not in settings.services:
        raise UsageError(f"no service is called {service}")
    found = reports([service] if service else list(settings.services), settings)
    if service is not None and not found:
        raise UsageError(f"{service} has no `recovery.configuration`")
    if as_json:
        click.echo(json.dumps(found, indent=2))
    else:
        screens.show_drift(Console(highlight=False), found)
    if any(report["places"] != 0 for report in found):
        sys.exit(1)


@main.command()
@access_options
@json_option
@_answers_as_sentences
def strategies(as_json: bool, **where: Any) -> None:
    """Show how often each strategy healed each target, which decides what is tried first."""
    from self_healing_fabric import screens

    rows = _api(**where).call("GET", "/api/v1/strategies")["strategies"]
    if as_json:
        click.echo(json.dumps(rows, indent=2))
    else:
        screens.list_strategies(Console(highlight=False), rows)


def _decision(name: str, meaning: str) -> None:
    """Add the command of a decision: those of the buttons on an incident's page, with the same words."""

    @main.command(name=name, help=meaning)
    @click.argument("incident_id", metavar="ID")
    @said_options("Who decides", "Why")
    @access_options
    @json_option
    @_answers_as_sentences
    def decide(incident_id: str, by: str, reason: str | None, as_json: bool, **where: Any) -> None:
        story = _api(**where).decide(incident_id, name, _said(by, reason))
        _tell_decided(story, as_json)
        if name == "close":
            _tell_firing(story)


_decision("acknowledge", "Take incident ID: no further level is called; what is under way goes on.")
_decision("reject", "Drop the plan of an incident that awaits approval; people are called.")
_decision("escalate", "Do nothing more about incident ID by itself, and call the next level.")
_decision("close", "End incident ID without proof. Its alerts do not open it again; a new one opens another.")


@main.command()
@click.argument("incident_id", metavar="ID")
@click.option(
    "--asked-for",
    metavar="ACTION",
    help="Allow only this action, as `shf incidents ID` shows it (default: what is asked for now; on a "
    "terminal it is shown, and you are asked).",
)
@said_options("Who decides", "Why")
@access_options
@json_option
@_answers_as_sentences
def approve(
    incident_id: str, asked_for: str | None, by: str, reason: str | None, as_json: bool, **where: Any
) -> None:
    """Allow the action that an incident asks for."""
    from self_healing_fabric import screens

    api = _api(**where)
    if asked_for is None and sys.stdin.isatty():
        story = api.incident(incident_id)
        asked_for = story.get("asked_for")  # an older fabric does not tell
        if asked_for is not None:
            screens.show_question(Console(highlight=False, stderr=True), story)
            click.confirm("Allow it?", abort=True, err=True)
    body = _said(by, reason) | ({"asked_for": asked_for} if asked_for else {})
    _tell_decided(api.decide(incident_id, "approve", body), as_json)


def _said(by: str, reason: str | None) -> dict[str, Any]:
    return {"by": by or _user()} | ({"reason": reason} if reason else {})


def _tell_decided(story: Any, as_json: bool) -> None:
    owner = story.get("acknowledged_by")  # the first who took it, whoever did so now
    taken = f", taken by {quoted(owner)}" if owner else ""
    click.echo(json.dumps(story, indent=2) if as_json else f"{story['id']}: {story['state']}{taken}")


def _tell_firing(story: Any) -> None:
    """Of a closed incident: what is left alone, although it has not ended."""
    firing = {
        quoted(alert["labels"].get("alertname", "an alert"))
        for alert in story.get("alerts", ())
        if alert["status"] == "firing"
    }
    if firing:
        still = f"still firing: {', '.join(sorted(firing))}"
        click.echo(f"note: {still}; nothing is done about it until it has ended and fires again", err=True)


@main.command()
@click.argument("incident_id", metavar="ID")
@click.argument("service")
@said_options("Who decides", "Why")
@access_options
@json_option
@_answers_as_sentences
def split(incident_id: str, service: str, by: str, reason: str | None, as_json: bool, **where: Any) -> None:
    """Give SERVICE, wrongly taken for a symptom of incident ID, an incident of its own."""
    body = _said(by, reason) | {"service": service}
    story = _api(**where).decide(incident_id, "split", body)
    _tell_decided(story, as_json)


@main.command()
@click.argument("incident_id", metavar="ID")
@click.argument("answer", type=click.Choice(["right", "wrong"]))
@click.option("--service", help="The service that it was.")
@click.option("--pattern", help="The pattern that it was, for example network_issue.")
@said_options("Who says so", "How you know")
@access_options
@json_option
@_answers_as_sentences
def verdict(
    incident_id: str,
    answer: str,
    service: str | None,
    pattern: str | None,
    by: str,
    reason: str | None,
    as_json: bool,
    **where: Any,
) -> None:
    """Say whether the diagnosis of incident ID was right or wrong: confidence learns from it."""
    from self_healing_fabric import screens

    body = _said(by, reason) | {"right": answer == "right", "service": service, "pattern": pattern}
    story = _api(**where).decide(incident_id, "verdict", body)
    if as_json:
        click.echo(json.dumps(story["verdict"], indent=2))
    else:
        Console(highlight=False, soft_wrap=True).print(screens.verdict(story["verdict"]))


@main.command()
@click.argument("new_mode", required=False, metavar="[MODE]",
                type=click.Choice(["automatic", "approval", "dry_run", "paused", "configured"]))  # fmt: skip
@click.option("--service", help="Only for this service.")
@click.option("--strategy", help="Only for this strategy.")
@click.option("--by", default="", help="Who changes it (default: the system's user name).")
@access_options
@json_option
@_answers_as_sentences
def mode(
    new_mode: str | None, service: str | None, strategy: str | None, by: str, as_json: bool, **where: Any
) -> None:
    """Show the mode, or set it: automatic, approval, dry_run, or paused (the kill switch).

    The strictest of the modes of everything, of the service and of the strategy is in force. `configured`
    takes back what was set here before.
    """
    api = _api(**where)
    if new_mode:
        body = {"mode": None if new_mode == "configured" else new_mode, "by": by or _user()}
        scope = {"service": service, "strategy": strategy}
        answer = api.call(
            "PUT", "/api/v1/mode", json=body | {key: value for key, value in scope.items() if value}
        )
    else:
        answer = api.call("GET", "/api/v1/mode")
    in_force = answer.get("services", {}).get(service) or answer.get("strategies", {}).get(strategy)
    in_force = in_force or answer["mode"]
    if new_mode not in (None, "configured", in_force):
        told = f"{service or strategy} stays in {in_force}, the mode of everything: the strictest is in force"
        click.echo(f'note: {told} (docs/guardrails.md, "One service first")', err=True)
    if as_json:
        click.echo(json.dumps(answer, indent=2))
        return
    click.echo(answer["mode"])
    for kind in ("services", "strategies"):
        for name, value in sorted(answer.get(kind, {}).items()):
            click.echo(f"{name}: {value}")


@main.command()
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("alert_rules"),
    show_default=True,
    help="Folder to write the rule files into.",
)
@click.option(
    "--set", "changes", multiple=True, metavar="NAME=VALUE", help="Another value, for example heartbeat=45s."
)
@click.option("--list", "list_only", is_flag=True, help="List the parameters and their defaults.")
@click.option(
    "--format",
    "form",
    type=click.Choice(["files", "prometheusrule"]),
    default="files",
    show_default=True,
    help="Rule files, or one manifest for the Prometheus operator on standard output.",
)
@click.option("--name", default="self-healing-fabric", show_default=True, help="Name of the manifest.")
@click.option("--namespace", help="Namespace of the manifest (default: that of `kubectl apply`).")
@click.option(
    "--label", "labels", multiple=True, metavar="KEY=VALUE", help="Label that the operator selects by."
)
@config_option
@json_option
@_errors_as_sentences
def rules(
    out: Path,
    changes: tuple[str, ...],
    list_only: bool,
    form: str,
    name: str,
    namespace: str | None,
    labels: tuple[str, ...],
    config: Path | None,
    as_json: bool,
) -> None:
    """Write the alert rules, with the thresholds and intervals of the configuration if there is one."""
    import shutil

    from self_healing_fabric.rule_overrides import name_value_pairs, rule_parameters
    from self_healing_fabric.rules import check_rules, prometheus_rule_manifest, write_rules

    parameters, notes = rule_parameters(changes, config)
    for note in notes:
        click.echo(f"note: {note}", err=True)
    if as_json and form == "prometheusrule":
        raise UsageError("the manifest is YAML: --json is for --list and for the paths of files")
    if list_only and as_json:
        listed = [
            {"parameter": name, "value": getattr(parameters, name), "meaning": field.description or ""}
            for name, field in type(parameters).model_fields.items()
        ]
        click.echo(json.dumps(listed, indent=2))
        return
    if list_only:
        table = Table("parameter", "value", "meaning", box=None)
        for name, field in type(parameters).model_fields.items():
            table.add_row(name, escape(str(getattr(parameters, name))), escape(field.description or ""))
        Console(highlight=False).print(table)
        return
    if form == "prometheusrule":
        try:
            manifest = prometheus_rule_manifest(
                parameters, name, namespace, name_value_pairs("--label", labels)
            )
        except ValueError as error:
            raise UsageError(str(error)) from error
        click.echo(manifest, nl=False)
        return
    try:
        paths = write_rules(parameters, out)
    except OSError as error:
        raise UsageError(f"{out}: cannot be written: {error.strerror}") from error
    problems = check_rules(paths, shutil.which("promtool"))
    if problems:
        raise ShfError("\n".join(problems))
    written = [str(path) for path in paths]
    click.echo(json.dumps(written, indent=2) if as_json else "\n".join(written))


@main.command()
@access_options
@json_option
@_answers_as_sentences
def status(as_json: bool, **where: Any) -> None:
    """Show what the fabric is doing. Exits with 1 when it does not answer or does not do its work."""
    from self_healing_fabric import screens

    report = _api(**where).call("GET", "/api/v1/status")
    if as_json:
        click.echo(json.dumps(report, indent=2))
    else:
        screens.show_status(Console(highlight=False, soft_wrap=True), report)
    if not report.get("healthy"):
        sys.exit(1)


@main.command()
@click.argument("path", type=click.Path(path_type=Path), default=Path("shf.yaml"))
@json_option
@_errors_as_sentences
def init(path: Path, as_json: bool) -> None:
    """Write a commented configuration to start from."""
    from self_healing_fabric.starter import STARTER

    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(STARTER)
    except FileExistsError as error:
        raise UsageError(f"{path} exists already: name another file") from error
    except OSError as error:
        raise UsageError(f"{path}: cannot be written: {error.strerror}") from error
    told = f"{path}: written. Edit it, then run `shf check --config {path}`."
    click.echo(json.dumps({"written": str(path)}) if as_json else told)


@main.group()
def audit() -> None:
    """Prove that nobody has changed what the timelines tell."""


@audit.command("verify")
@click.option("--expect", metavar="HASH", help="A hash that `shf audit head` or the log told before.")
@config_option
@json_option
@_errors_as_sentences
def audit_verify(expect: str | None, config: Path | None, as_json: bool) -> None:
    """Compute all hashes anew. Exits with 1 when a line was edited, removed, inserted or moved."""
    from dataclasses import asdict

    from self_healing_fabric.configuration import config_path, load_settings
    from self_healing_fabric.incidents.audit import verify
    from self_healing_fabric.store import look

    settings = load_settings(config_path(config))
    found = look(settings.store, lambda connection: verify(connection, expect), settings.store_password_file)
    if as_json:
        click.echo(json.dumps(asdict(found), indent=2))
    else:
        for finding in found.findings:
            click.echo(finding)
        click.echo(f"{found.lines} lines of {found.incidents} incidents: {len(found.findings)} findings")
        click.echo(f"head: {found.head.hash} (link {found.head.number})")
    if found.findings:
        sys.exit(1)


@audit.command("head")
@config_option
@json_option
@_errors_as_sentences
def audit_head(config: Path | None, as_json: bool) -> None:
    """Print the hash to keep elsewhere, for `shf audit verify --expect HASH`."""
    from dataclasses import asdict

    from self_healing_fabric.configuration import config_path, load_settings
    from self_healing_fabric.incidents.audit import head
    from self_healing_fabric.store import look

    settings = load_settings(config_path(config))
    found = look(settings.store, head, settings.store_password_file)
    click.echo(json.dumps(asdict(found), indent=2) if as_json else found.hash)


@main.command()
@config_option
@click.option("--service-account", default="self-healing-fabric", show_default=True, help="Whom to grant it.")
@click.option("--namespace", default="self-healing-fabric", show_default=True, help="Of that account.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON: one list for `kubectl apply`.")
@_errors_as_sentences
def rbac(config: Path | None, service_account: str, namespace: str, as_json: bool) -> None:
    """Print the roles that the configured services and plans need on Kubernetes, for `kubectl apply`."""
    from self_healing_fabric.configuration import config_path, load_settings
    from self_healing_fabric.rbac import documents, to_yaml

    found = documents(load_settings(config_path(config)), service_account, namespace)
    if not found:
        click.echo("note: no service of this configuration is on Kubernetes", err=True)
    if as_json:
        click.echo(json.dumps({"apiVersion": "v1", "kind": "List", "items": found}, indent=2))
    else:
        click.echo(to_yaml(found), nl=False)


@main.command()
@click.option("--since", default="7d", show_default=True, help="So long before --until, or an ISO 8601 time.")
@click.option("--until", help="ISO 8601 time at which the replay ends (default: now).")
@click.option("--service", help="Report only incidents that touch this service.")
@click.option(
    "--rules",
    "rules_folder",
    type=click.Path(path_type=Path),
    help="Folder with rule files (default: what `shf rules` would write).",
)
@click.option("--mode", type=click.Choice(["automatic", "approval", "dry_run", "paused"]),
              help="As if this were the configured `mode`.")  # fmt: skip
@config_option
@json_option
@_errors_as_sentences
def replay(
    since: str,
    until: str | None,
    service: str | None,
    rules_folder: Path | None,
    mode: str | None,
    config: Path | None,
    as_json: bool,
) -> None:
    """Show what the fabric would have done in the past. Asks only Prometheus, and performs nothing."""
    import time

    from self_healing_fabric import replay as replays
    from self_healing_fabric import screens
    from self_healing_fabric.configuration import config_path, load_settings
    from self_healing_fabric.rule_overrides import rule_parameters
    from self_healing_fabric.rules import render_rules
    from self_healing_fabric.settings import Mode
    from self_healing_fabric.telemetry import quiet

    path = config_path(config)
    settings = load_settings(path)
    if mode is not None:
        settings = settings.model_copy(update={"mode": Mode(mode)})
    end = time.time() if until is None else replays.moment_of(until)
    begin = replays.beginning_of(since, end)
    if rules_folder is None:
        texts = render_rules(rule_parameters((), path)[0])
    else:
        texts = replays.rule_files_in(rules_folder)
    with quiet(), screens.progress("replaying") as progress:
        report = replays.replay(settings, texts, since=begin, until=end, service=service, progress=progress)
    if as_json:
        click.echo(json.dumps(report, indent=2))
    else:
        screens.show_replay(Console(highlight=False), report)


@main.group()
def escalation() -> None:
    """Try out who is called when healing fails."""


@escalation.command("test")
@click.argument("level", type=click.IntRange(1, 4))
@config_option
@json_option
@_errors_as_sentences
def escalation_test(level: int, config: Path | None, as_json: bool) -> None:
    """Send a test message to everybody whom LEVEL calls. Exits with 1 when somebody cannot be reached."""
    from self_healing_fabric.configuration import config_path, load_settings
    from self_healing_fabric.escalation.rehearsal import rehearse

    def subject(reached: Any) -> str:
        return f"{reached.contact} over {reached.channel}" if reached.channel else str(reached.contact)

    _tell_findings(rehearse(load_settings(config_path(config)), level), subject, as_json)


@main.command()
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("dashboards"),
    show_default=True,
    help="Folder to write the dashboards into: the one that Grafana's provisioning names.",
)
@click.option("--runbooks", metavar="URL", help="Folder of your own runbooks' pages.")
@json_option
@_errors_as_sentences
def dashboards(out: Path, runbooks: str | None, as_json: bool) -> None:
    """Write the Grafana dashboards as files to provision."""
    from self_healing_fabric.dashboards import write_dashboards

    if runbooks is not None and not runbooks.startswith(("https://", "http://")):
        raise UsageError(f"--runbooks: {runbooks!r} is no http or https URL")
    try:
        paths = write_dashboards(out, runbooks)
    except OSError as error:
        raise UsageError(f"{out}: cannot be written: {error.strerror}") from error
    written = [str(path) for path in paths]
    click.echo(json.dumps(written, indent=2) if as_json else "\n".join(written))


def _api(
    *,
    config: Path | None,
    url: str | None,
    token_file: Path | None,
    user: str | None,
    password_file: Path | None,
    ca_file: Path | None,
    cert_file: Path | None,
    key_file: Path | None,
) -> Any:
    from self_healing_fabric import outbound
    from self_healing_fabric.client import FabricClient
    from self_healing_fabric.configuration import config_path, load_settings
    from self_healing_fabric.settings import Right

    if (user is None) is not (password_file is None):
        raise UsageError("--user and --password-file belong together")
    if (cert_file is None) is not (key_file is None):
        raise UsageError("--cert-file and --key-file belong together")
    if user is not None and token_file is not None:
        raise UsageError("give a token or a user, not both")
    if url is None:
        try:
            settings = load_settings(config_path(config))
        except ShfError as error:  # a file may be half written while the fabric has to be stopped
            raise UsageError(f"{str(error).rstrip()}\n{WITHOUT_CONFIGURATION}") from error
        url = f"http://{settings.listen}"
        if token_file is None and user is None:
            # Whoever can read these files may do what they allow: as the one that may decide, else read.
            known = max(
                settings.auth.credentials(),
                key=lambda each: (Right.CONTROL in each.rights, Right.READ in each.rights),
                default=None,
            )
            if known is not None and known.scheme == "bearer":
                token_file = known.file
            elif known is not None:
                user, password_file = known.username, known.file
    outbound.trust(ca_file, cert_file, key_file)
    return FabricClient(url, token_file, username=user, password_file=password_file)


def _pause(text: str) -> float:
    from self_healing_fabric.durations import parse_duration

    try:
        seconds = parse_duration(text)
    except ValueError as error:
        raise UsageError(f"--interval: {error}") from error
    if seconds < 0.1:
        raise UsageError("--interval: at least 100ms")
    return seconds


def _tell_findings(findings: Iterable[Any], subject: Callable[[Any], str], as_json: bool) -> None:
    """Print each as soon as it is known, or all as JSON; the exit status is 1 when one is not `ok`."""
    console, found = Console(highlight=False, soft_wrap=True), []
    for finding in findings:
        found.append(finding)
        if not as_json:
            word = {True: "[green]ok[/]   ", False: "[red]FAIL[/] ", None: "[yellow]note[/] "}[finding.ok]
            console.print(f"{word} {escape(subject(finding))}: {escape(finding.message)}")
    if as_json:
        click.echo(json.dumps([vars(finding) for finding in found], indent=2))
    if any(finding.ok is False for finding in found):
        sys.exit(1)


def _user() -> str:
    import getpass

    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a uid without a name, as containers have
        return "someone at the command line"


if __name__ == "__main__":
    main()
