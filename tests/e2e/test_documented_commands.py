"""Every command of the documentation is run as it is printed, or stands below with the reason why not.

A page is run from its top to its bottom, in a sandbox (see there) with the usual ports and paths. Most pages
speak of a fabric that runs, so they share one: Prometheus on 9090, Alertmanager on 9093, the fabric on 9931,
some services that have failed. Pages that begin with nothing get a machine of their own. What a page tells
the reader to write down, it writes: a block with a title is that file, a part of shf.yaml, prometheus.yml or
alertmanager.yml is added to it.

A new page is picked up by itself. When its command fails here, make it one that works when it is pasted; give
the page a machine of its own (OWN_MACHINE) when it starts servers itself; and only what this sandbox cannot
have (other people's clusters, registries) goes into NOT_RUN, where its syntax and its options are still
checked by tests/unit/test_documented_snippets.py.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NoReturn

import documented_target
import pytest
import yaml
from sandbox import CommandFailed, Sandbox, SandboxMissing, require_unshare

from documented import PAGES, ROOT, Block, Command, blocks_of, commands_in, page_name
from self_healing_fabric.settings import Settings

pytestmark = pytest.mark.e2e

NOT_RUN = {
    r"make (demo|test|crash|lint|bench.*|scenarios.*|setup|venv)\b": "takes minutes, or runs these tests",
    r"/opt/shf/bin/pip\b": "needs the package index",
    r"(sudo )?(pip|pipx|apt-get|brew|npm|git clone|docker|helm|kind|cosign)\b": "needs registries, an engine",
    r"(sudo )?(systemctl|useradd|install -|python3 -m venv /opt)\b": "needs an init system, and root outside",
    r"kubectl (?!kustomize)": "needs the reader's cluster",
    r"(pg_dump|psql|createdb|createuser|sudo -u postgres)\b": "needs the reader's PostgreSQL",
}
# Until stopped, so in the background: what answers when it has begun.
SERVERS = {
    "shf serve": "http://127.0.0.1:9931/readyz",
    "prometheus ": "http://127.0.0.1:9090/-/ready",
    "alertmanager ": "http://127.0.0.1:9093/-/ready",
    "python3 greeter.py": "http://127.0.0.1:8101/health",
}
# Commands whose success is another exit status.
STATUS = {
    "shf drift": 1,  # there is a drift, which is what the examples show
}
OWN_MACHINE = {"README.md", "docs/tutorial.md"}
# What must be true when a page has been followed, counted where the effect is.
AFTERWARDS = {
    "docs/tutorial.md": (
        'test "$(wc -l < starts.log)" = 2',  # one start, and exactly one restart
        'shf incidents --json | grep -q \'"outcome": "healed"\'',
    ),
}

PROMETHEUS = "/etc/prometheus/prometheus.yml"
ALERTMANAGER = "/etc/alertmanager/alertmanager.yml"
SIGNALS = "http://127.0.0.1:9090/api/v1/query?query=service:shf_heartbeat:answered"
DOWN = ("cart", "web", "db", "orders")  # all have failed; `orders` depends on db
WELL = ("pay", "mail", "ledger", "search", "stock", "news")  # when most fail at once, no single one is healed
PATIENCE = 60.0  # seconds until all of them await approval

STAGE_PROMETHEUS = {
    "global": {"scrape_interval": "1s", "scrape_timeout": "900ms", "evaluation_interval": "1s"},
    "rule_files": ["/etc/prometheus/shf/*.rules.yml"],
    "alerting": {"alertmanagers": [{"static_configs": [{"targets": ["127.0.0.1:9093"]}]}]},
    "scrape_configs": [
        {"job_name": "shf", "static_configs": [{"targets": ["127.0.0.1:9931"]}]},
        *({"job_name": name, "static_configs": [{"targets": ["127.0.0.1:8199"]}]} for name in DOWN),
        *({"job_name": name, "static_configs": [{"targets": ["127.0.0.1:8080"]}]} for name in WELL),
    ],
}
STAGE_SETTINGS = {
    "listen": "127.0.0.1:9931",
    "mode": "approval",
    "prometheus": {"url": "http://127.0.0.1:9090", "scrape_interval": "1s", "evaluation_interval": "1s"},
    "alertmanager": {"url": "http://127.0.0.1:9093", "receiver": "self-healing-fabric"},
    "thresholds": {"heartbeat": "5s"},
    "guardrails": {"fleet": {"storm": "100%"}},
    "services": {
        **{
            name: {"recovery": {"http": {"restart": f"http://{name}:8080/restart"}}}
            for name in (*DOWN, *WELL)
        },
        "orders": {"depends_on": ["db"], "recovery": {"http": {"restart": "http://orders:8080/restart"}}},
        "nightly": {"pushes_heartbeats": True, "thresholds": {"heartbeat": "1h"}},
    },
}
# What the commands of a page read beside it: a drift that the running fabric does not look for.
PAGES_SETTINGS = {
    "configuration": {
        "desired": {"git": "/srv/config", "path": "cart/cart.yaml"},
        "live": {"http": "http://cart:8080/config"},
        "format": "yaml",
    }
}
READERS_PROMETHEUS = {
    "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
    "scrape_configs": [
        {"job_name": "prometheus", "static_configs": [{"targets": ["127.0.0.1:9090"]}]},
        {"job_name": "cart", "static_configs": [{"targets": ["127.0.0.1:8080"]}]},
    ],
    "alerting": {"alertmanagers": [{"static_configs": [{"targets": ["127.0.0.1:9093"]}]}]},
}
READERS_ALERTMANAGER = {"route": {"receiver": "people"}, "receivers": [{"name": "people"}]}


@pytest.fixture(scope="session", autouse=True)
def _namespaces() -> None:
    """Skip loudly where there are none, before anything is set up."""
    try:
        require_unshare()
    except SandboxMissing as error:
        _missing(error)


def _missing(error: SandboxMissing) -> NoReturn:
    if os.environ.get("CI"):
        pytest.fail(f"the documented commands need a sandbox: {error}")
    pytest.skip(f"DOCUMENTED COMMANDS NOT RUN: {error}")


@contextmanager
def _sandbox(home: Path) -> Iterator[Sandbox]:
    with ExitStack() as stack:
        try:
            sandbox = stack.enter_context(Sandbox(home))
        except SandboxMissing as error:
            _missing(error)
        yield sandbox


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    """A machine on which everything runs and some services have failed, each with an incident."""
    with _sandbox(tmp_path_factory.mktemp("stage") / "home") as sandbox:
        settings = {**STAGE_SETTINGS, "store": f"sqlite:///{sandbox.home}/shf.db"}
        (sandbox.home / "shf.yaml").write_text(yaml.safe_dump(settings))
        _write(sandbox, PROMETHEUS, yaml.safe_dump(STAGE_PROMETHEUS))
        _write(sandbox, ALERTMANAGER, (ROOT / "alert_rules/alertmanager.yml").read_text())
        sandbox.run(f"echo 127.0.0.1 {' '.join((*DOWN, *WELL))} >> /etc/hosts")
        sandbox.run(
            "shf rules --out /etc/prometheus/shf --set scrape_interval=1s --set evaluation_interval=1s"
        )
        _checkout(sandbox)
        _start_servers(sandbox)
        sandbox.serve("shf serve", SERVERS["shf serve"], "shf.log")
        end = time.monotonic() + PATIENCE
        while not {"cart", "web", "db"} <= set(_incidents(sandbox, "awaiting_approval")):
            assert time.monotonic() < end, sandbox.run("shf incidents; tail shf.log")
            time.sleep(0.5)
        shown = _merged(settings, {"services": {"cart": {"recovery": PAGES_SETTINGS}}})
        (sandbox.home / "shf.yaml").write_text(yaml.safe_dump(shown))
        yield sandbox


def _start_servers(sandbox: Sandbox) -> None:
    """The target of the examples, Prometheus and Alertmanager, with what stands in /etc."""
    sandbox.serve(f"python3 {documented_target.__file__}", "http://127.0.0.1:8080/health", "target.log")
    sandbox.serve(
        f"alertmanager --config.file={ALERTMANAGER} --storage.path=am --cluster.listen-address=",
        SERVERS["alertmanager "],
        "alertmanager.log",
    )
    sandbox.serve(
        f"prometheus --config.file={PROMETHEUS} --storage.tsdb.path=tsdb --web.enable-lifecycle",
        SERVERS["prometheus "],
        "prometheus.log",
    )


def _checkout(sandbox: Sandbox) -> None:
    """The wanted configurations of the examples, in Git."""
    sandbox.run(
        "mkdir -p /srv/config/cart && cd /srv/config && git init -q -b production"
        " && printf 'pool:\\n  size: 5\\ndatabase:\\n  password: as-agreed\\n' > cart/cart.yaml"
        " && git add . && git -c user.name=a -c user.email=a@example.com commit -q -m wanted; cd ~"
    )


def _write(sandbox: Sandbox, path: str, text: str) -> None:
    sandbox.run(
        f"mkdir -p {shlex.quote(str(Path(path).parent))}; cat > {shlex.quote(path)} <<'END'\n{text}\nEND"
    )


def _incidents(sandbox: Sandbox, state: str = "", *, known_cause: bool = False) -> dict[str, str]:
    """The ids of the incidents by service; in this state, if one is named; with a known cause, or of all."""
    query = f"?state={state}" if state else ""
    answer = sandbox.run(f"curl -fsS 'http://127.0.0.1:9931/api/v1/incidents{query}'")
    rows = json.loads(answer)["incidents"]
    return {row["service"]: row["id"] for row in rows if row["confidence"] or not known_cause}


def runnable(command: Command) -> bool:
    """Whether nothing in NOT_RUN speaks against it."""
    return not any(re.match(pattern, command.text) for pattern in NOT_RUN)


def _pages(own: bool) -> list[Any]:
    found = []
    for page in PAGES:
        commands = [command for block in blocks_of(page) for command in commands_in(block)]
        if (page_name(page) in OWN_MACHINE) is own and any(map(runnable, commands)):
            found.append(pytest.param(page, id=page_name(page)))
    return found


@pytest.mark.parametrize("page", _pages(own=False))
def test_commands_of_a_page_work(page: Path, stage: Sandbox) -> None:
    """A reader who has a running fabric can paste every command of the page, in order."""
    folder = f"~/{page_name(page).replace('/', '-')}"
    # The files of the repository that pages name; a copy, for a page may write beside them.
    stage.run(f"mkdir {folder}; cd {folder}; cp ~/shf.yaml .; cp -r {ROOT}/deploy .")
    _act(stage, page)


@pytest.mark.parametrize("page", _pages(own=True))
def test_commands_from_nothing_work(page: Path, tmp_path: Path) -> None:
    """A reader who begins with nothing but the programs can paste every command of the page, in order."""
    with _sandbox(tmp_path / "home") as sandbox:
        if page.name == "README.md":  # "Use it with your Prometheus": that is there already
            _write(sandbox, PROMETHEUS, yaml.safe_dump(READERS_PROMETHEUS))
            _write(sandbox, ALERTMANAGER, yaml.safe_dump(READERS_ALERTMANAGER))
            _start_servers(sandbox)
        _act(sandbox, page)
        for check in AFTERWARDS.get(page_name(page), ()):
            sandbox.run(check)


def _act(sandbox: Sandbox, page: Path) -> None:
    """Do what the page says."""
    for block in blocks_of(page):
        if block.title:
            _write(sandbox, block.title, block.text)
        elif block.language == "yaml":
            _apply(sandbox, block, own=page_name(page) in OWN_MACHINE)
        for command in commands_in(block):
            if runnable(command):
                _run(sandbox, command)


def _run(sandbox: Sandbox, command: Command) -> None:
    text = _filled_in(sandbox, command.text)
    status = next((number for begin, number in STATUS.items() if text.startswith(begin)), 0)
    try:
        for begin, ready in SERVERS.items():
            if text.startswith(begin):
                sandbox.serve(text, ready, f"{begin.strip().replace(' ', '-')}.log")
                return
        printed = sandbox.run(text, status=status)
    except CommandFailed as error:
        pytest.fail(
            f"{command}\n{error}\nHow to mend it: see the top of {Path(__file__).name}.", pytrace=False
        )
    if "shf check >" in text:
        assert _findings(command.shown) == _findings(printed)


def _findings(shown: str) -> list[str]:
    """What `shf check` says, but for times, and for what Prometheus has scraped and sent so far."""
    said = [re.sub(r"\d+\.\d+$", "TIME", line) for line in shown.splitlines()]
    return [line for line in said if not re.search("scrape|alerts? of Prometheus", line)]


def _filled_in(sandbox: Sandbox, text: str) -> str:
    """What a reader puts for ID and SERVICE."""
    if re.search(r"\bID\b", text):
        ids = _incidents(sandbox, known_cause=" verdict " in text)
        chosen = "db" if " split " in text else "web" if " approve " in text else "cart"
        text = re.sub(r"\bID\b", ids.get(chosen) or next(iter(ids.values())), text)
    return re.sub(r"\bSERVICE\b", "orders", text)


def _apply(sandbox: Sandbox, block: Block, *, own: bool) -> None:
    """Add a part of a configuration to the file to which it belongs; what is of no such kind is left.

    On the machine that pages share, only services: the servers there run for the next page too.
    """
    part = yaml.safe_load(block.text)
    if not isinstance(part, dict) or "apiVersion" in part or "groups" in part:
        return
    if not own and set(part) != {"services"}:
        return
    if set(part) <= set(Settings.model_fields) and not _compose(part):
        file, reload = "shf.yaml", None
    elif {"route", "receivers"} & set(part):
        file, reload = ALERTMANAGER, "http://127.0.0.1:9093/-/reload"
    elif {"scrape_configs", "rule_files"} & set(part):
        file, reload = PROMETHEUS, "http://127.0.0.1:9090/-/reload"
    else:
        return
    present = yaml.safe_load(sandbox.run(f"cat {file} 2> /dev/null || true")) or {}
    present.get("services", {}).pop("example", None)  # what `shf init` wrote, for readers to replace
    _write(sandbox, file, yaml.safe_dump(_merged(present, part), sort_keys=False))
    if reload:
        sandbox.run(f"curl -fsS -X POST {reload}")
    if "rule_files" in part:  # a reader is not as fast as to ask before the first evaluation
        sandbox.run(f"until curl -fsS '{SIGNALS}' | grep -q '\"value\"'; do sleep 0.2; done")


def _compose(part: Mapping[str, Any]) -> bool:
    services = part.get("services")
    return isinstance(services, dict) and any("image" in (each or {}) for each in services.values())


def _merged(present: Any, part: Any) -> Any:
    """`part` added to `present`: mappings by key, lists with the new ones first."""
    if isinstance(present, dict) and isinstance(part, dict):
        return {**present, **{key: _merged(present.get(key), value) for key, value in part.items()}}
    if isinstance(present, list) and isinstance(part, list):
        return part + [each for each in present if each not in part]
    return part
