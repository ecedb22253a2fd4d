"""Settings: every mistake at once, under its path, in words that say what to write instead."""

import os
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from self_healing_fabric.configuration import config_path, load_settings
from self_healing_fabric.errors import ConfigurationError, Problem, UsageError
from self_healing_fabric.settings import Mode, Right, Settings, is_loopback, split_listen

Load = Callable[[Any], Settings]


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("SHF_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """Load a configuration file with this text or these values."""

    def load(content: Any) -> Settings:
        path = tmp_path / "shf.yaml"
        path.write_text(content if isinstance(content, str) else yaml.safe_dump(content), encoding="utf-8")
        return load_settings(path)

    return load


@pytest.fixture
def problems(load: Load) -> Callable[[Any], dict[str, str]]:
    """The problems of a configuration, by path."""

    def problems(content: Any) -> dict[str, str]:
        with pytest.raises(ConfigurationError) as caught:
            load(content)
        found = caught.value.problems
        assert len({problem.path for problem in found}) == len(found)
        return {problem.path: problem.message for problem in found}

    return problems


Problems = Callable[[Any], dict[str, str]]


def test_an_empty_file_is_a_valid_configuration(load: Load) -> None:
    """Everything has a default, and the default listens on loopback only."""
    settings = load("")
    assert (settings.listen, settings.mode, settings.services) == ("127.0.0.1:9931", Mode.AUTOMATIC, {})


def test_a_part_of_which_all_lines_are_comments_is_as_if_it_was_not_there(load: Load) -> None:
    """A service without settings is still one; everything else has its default, or is not configured."""
    empty = load(
        {
            **dict.fromkeys(("auth", "prometheus", "alertmanager", "guardrails", "plans", "plugins")),
            "escalation": {"tiers": None, "bounds": None, "channels": None},
            "services": {"shop": None, "cart": {"recovery": None, "depends_on": ["shop"]}},
        }
    )
    assert empty == load({"services": {"shop": {}, "cart": {"depends_on": ["shop"]}}})
    assert load({"services": None}) == load({})


def test_a_value_in_place_of_a_part_is_told_in_words(problems: Problems) -> None:
    """Not in those of our program."""
    found = problems({"services": {"shop": "x", "cart": {"recovery": 5}}, "guardrails": [], "plans": 3})
    assert set(found) == {"services.shop", "services.cart.recovery", "guardrails", "plans"}
    assert set(found.values()) == {"must hold names and values, as `name: value`, or nothing"}


def test_a_value_in_place_of_a_list_is_told_in_words(problems: Problems) -> None:
    """YAML has no tuples."""
    services = {"db": {}, "cart": {"depends_on": "db"}}
    found = problems({"services": services, "escalation": {"contacts": {"ada": "mail"}}})
    assert set(found) == {"services.cart.depends_on", "escalation.contacts.ada"}
    assert set(found.values()) == {"must hold a list, as `[first, second]`"}


def test_a_caller_without_anything_is_told_what_it_needs(problems: Problems) -> None:
    """As if the braces had been written."""
    assert problems({"auth": {"callers": {"am": None}}}) == {"auth.callers.am.rights": "Field required"}


@pytest.mark.parametrize("given", ["cert_file", "key_file"])
def test_a_certificate_and_its_key_belong_together(problems: Problems, given: str) -> None:
    """One without the other is told beside all else that is wrong."""
    found = problems({given: "/etc/shf/client.pem", "workers": 0})
    assert found.keys() == {"key_file", "workers"}
    assert "belong together" in found["key_file"]


def test_durations_are_read_as_people_write_them(load: Load) -> None:
    """Text with a unit and plain numbers both become seconds."""
    settings = load({"prometheus": {"timeout": "500ms"}, "verification": {"stability": 40, "deadline": "2m"}})
    assert settings.prometheus.timeout == 0.5
    assert (settings.verification.stability, settings.verification.deadline) == (40.0, 120.0)


def test_every_problem_is_reported_at_once_under_its_path(problems: Problems) -> None:
    """A person who fixes one typo is not sent round again for the next."""
    found = problems(
        {
            "listen": "nowhere",
            "mode": "sometimes",
            "promethius": {},
            "prometheus": {"url": "prometheus:9090", "timeout": "5 parsecs"},
            "verification": {"stability": "30s", "deadline": "40s"},
            "guardrails": {"max_actons": 3},
            "plans": {"oops": ["restart"], "degradation": ["restrat"]},
            "services": {
                "cart": {"depends_on": ["dbb"], "recovery": {"http": {"restrt": "http://127.0.0.1/r"}}},
                "db": {"tier": "gold", "plans": {"oops": []}},
            },
        }
    )
    assert set(found) == {
        "listen",
        "mode",
        "promethius",
        "prometheus.url",
        "prometheus.timeout",
        "verification.deadline",
        "guardrails.max_actons",
        "plans.oops",
        "plans.degradation.0",
        "services.db.plans.oops",
        "services.cart.depends_on.0",
        "services.cart.recovery.http.restrt",
        "services.db.tier",
    }


def test_a_workload_must_be_in_a_namespace_that_is_allowed(problems: Problems, load: Load) -> None:
    """Where namespaces are listed, no misspelt one and no forgotten one leads elsewhere."""
    workloads = {
        "cart": {"name": "cart", "namespace": "shop"},
        "db": {"name": "db", "namespace": "kube-system"},
    }
    workloads["web"] = {"name": "web"}  # in `default`
    services = {name: {"recovery": {"kubernetes": each}} for name, each in workloads.items()}
    assert problems({"kubernetes": {"namespaces": ["shop"]}, "services": services}) == {
        f"services.{name}.recovery.kubernetes.namespace": f"`{there}` is not in kubernetes.namespaces (shop)"
        for name, there in (("db", "kube-system"), ("web", "default"))
    }
    allowed = ["shop", "kube-system", "default"]
    assert load({"kubernetes": {"namespaces": allowed}, "services": services}).kubernetes.namespaces
    assert load({"services": services}).kubernetes.namespaces == ()


@pytest.mark.parametrize(
    ("content", "path", "suggestion"),
    [
        ({"promethius": {}}, "promethius", "did you mean `prometheus`?"),
        ({"guardrails": {"max_actons": 1}}, "guardrails.max_actons", "did you mean `max_actions`?"),
        ({"alertmanager": {"url": "http://a", "reciever": "x"}}, "alertmanager.reciever", "`receiver`?"),
        ({"services": {"cart": {"helth": "x"}}}, "services.cart.helth", "did you mean `health`?"),
        (
            {"services": {"cart": {"recovery": {"docker": {"containr": "x", "container": "y"}}}}},
            "services.cart.recovery.docker.containr",
            "did you mean `container`?",
        ),
        ({"retry": {"zzz": 1}}, "retry.zzz", "known here: attempts, base, cap, timeout"),
        ({"services": {"cart": {"depends_on": ["db1"]}, "db": {}}}, "services.cart.depends_on.0", "`db`?"),
    ],
)
def test_a_typo_gets_a_suggestion(problems: Problems, content: Any, path: str, suggestion: str) -> None:
    """The nearest known name of that section is named, or all of them."""
    assert problems(content)[path].endswith(suggestion)


@pytest.mark.parametrize("dependencies", ["db", 5, {"db": 1}, [{"a": "b"}], [None], [["db"]], True])
def test_dependencies_of_any_wrong_type_are_a_problem_of_their_path(
    problems: Problems, dependencies: Any
) -> None:
    """Whatever YAML gives where a list of names belongs, the answer is a path and no traceback."""
    found = problems({"services": {"cart": {"depends_on": dependencies}}})
    assert all(path.startswith("services.cart.depends_on") for path in found)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=5), inner, max_size=2),
        max_leaves=5,
    ),
    st.sampled_from(
        [
            ("services",),
            ("services", "cart"),
            ("services", "cart", "depends_on"),
            ("services", "cart", "recovery"),
            ("verification",),
            ("verification", "deadline"),
            ("auth",),
            ("listen",),
            ("store",),
            ("plans",),
            ("escalation", "levels"),
            ("prometheus", "url"),
        ]
    ),
)
def test_no_value_anywhere_makes_a_traceback(value: Any, path: tuple[str, ...]) -> None:
    """A configuration is valid or a list of problems, whatever stands in it."""
    content: Any = value
    for part in reversed(path):
        content = {part: content}
    with TemporaryDirectory() as folder:
        file = Path(folder) / "shf.yaml"
        file.write_text(yaml.safe_dump(content), encoding="utf-8")
        found: tuple[Problem, ...] | None = None
        try:
            load_settings(file)
        except ConfigurationError as error:
            found = error.problems
        assert found is None or len(found) > 0


def test_a_service_cannot_depend_on_itself(problems: Problems) -> None:
    """A circle of one is refused."""
    found = problems({"services": {"cart": {"depends_on": ["cart"]}}})
    assert found == {"services.cart.depends_on.0": "a service cannot depend on itself"}


def test_a_service_has_one_platform(problems: Problems) -> None:
    """Two ways to restart one service would be two budgets."""
    recovery = {"http": {"restart": "http://127.0.0.1/r"}, "docker": {"container": "cart"}}
    found = problems({"services": {"cart": {"recovery": recovery}}})
    assert found == {"services.cart.recovery": "give one platform, not both http and docker"}


def state_of(*urls: str, **more: Any) -> dict[str, Any]:
    """A service whose replicas have these URLs."""
    replicas = [{"name": f"r{number}", "url": url} for number, url in enumerate(urls)]
    state = {"replicas": replicas, "keep_aside": "/kept", **more}
    return {"services": {"ledger": {"recovery": {"state": state}}}}


STATE = "services.ledger.recovery.state"
BACKUPS = [{"name": "one", "path": "s3://bucket/one"}, {"name": "two", "path": "s3://bucket/two"}]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (
            state_of("http://a/s", "http://b/s"),
            "2 failure domains (a, b) can never out-vote one that is wrong",
        ),
        (state_of("http://a:1/s", "http://a:2/s", "http://a:3/s"), "1 failure domains (a) can never"),
        (state_of("http://a/s", backups=BACKUPS), "2 failure domains (a, s3://bucket) can never"),
        (state_of("http://a/s", "http://b/s", "http://b/s/"), "the same url twice"),
        (state_of("http://a/s", "http://b/s", backups=[*BACKUPS, BACKUPS[0]]), "the same name twice"),
        (
            state_of("http://a/s", "http://b/s", backups=[{**BACKUPS[0], "name": "x"}, BACKUPS[0]]),
            "the same path twice would be one source with two votes: s3://bucket/one",
        ),
    ],
)
def test_voters_that_could_never_decide_are_refused(problems: Problems, content: Any, says: str) -> None:
    """Also those of one host or one bucket: a common source must not become two votes by forgetfulness."""
    assert says in problems(content)[STATE]


@pytest.mark.parametrize(
    ("path", "domain"),
    [
        ("s3://bucket/a/b", "s3://bucket"),
        ("simplecache::s3://bucket/a", "s3://bucket"),
        ("/var/backups/a", "local disk"),
        ("file:///var/backups/a", "local disk"),
    ],
)
def test_backups_of_one_place_are_one_domain(load: Load, path: str, domain: str) -> None:
    """Unless somebody says otherwise."""
    hosts = ("http://a/s", "http://b/s", "https://c:8443/s")
    named = {"name": "two", "path": f"{path}2", "failure_domain": "elsewhere"}
    settings = load(state_of(*hosts, backups=[{"name": "one", "path": path}, named]))
    state = settings.services["ledger"].recovery.state
    assert state is not None
    assert [replica.domain for replica in state.replicas] == ["a", "b", "c"]
    assert [backup.domain for backup in state.backups] == [domain, "elsewhere"]
    assert state.backups[0].manifest_path == f"{path}.manifest.json"


def test_a_deadline_must_leave_room_for_the_stability_window(problems: Problems) -> None:
    """A verification that cannot succeed is refused."""
    found = problems({"verification": {"stability": "30s", "deadline": "59s"}})
    assert found == {"verification.deadline": "must be at least twice `stability` (30 s)"}


def test_services_need_names_that_can_be_labels(problems: Problems, tmp_path: Path) -> None:
    """A name with a quote is refused at its path, in words that say what a name may have."""
    ((path, told),) = problems({"services": {'x"} or vector(1) #': {}}}).items()
    assert path.startswith('services.x"} or vector(1) #')
    assert told.startswith("a name has letters, digits, `.`, `_` and `-`")
    assert told.endswith("(docs/signals.md shows how targets get the label `service`)")
    token = tmp_path / "token"
    token.write_text("secret")
    ((path, told),) = problems(
        {"auth": {"callers": {"ada b": {"rights": ["read"], "token_file": str(token)}}}}
    ).items()
    assert path.startswith("auth.callers.ada b")
    assert told.endswith("the first and the last one a letter or a digit"), "no label makes a caller"


@pytest.mark.parametrize(
    "url",
    [
        "127.0.0.1:9090",
        "ftp://host/x",
        "http://",
        "http:///path",
        "file:///etc/passwd",
        "",
        "http://127.0.0.1:99999",
        "http://127.0.0.1:port",
        "http://[::1",
        "http://two words/",
        "http://host/\n",
        "http://m\u00fcn_chen.example",
        "http://xn--a/",
    ],
)
def test_what_is_no_url_is_refused(problems: Problems, url: str) -> None:
    """An address that no client could call is a problem of the configuration, not of the first incident."""
    assert set(problems({"prometheus": {"url": url}})) == {"prometheus.url"}


@pytest.mark.parametrize("store", ["shf.db", "postgresql://db/shf", "sqlite:///", "sqlite:///:memory:", ""])
def test_a_store_that_would_forget_is_refused(problems: Problems, store: str) -> None:
    """Only a SQLite file keeps what was acknowledged; one in memory does not."""
    assert set(problems({"store": store})) == {"store"}


@pytest.mark.parametrize("store", ["postgresql+psycopg://shf@db", "postgresql+psycopg://shf@db:5432/"])
def test_a_server_without_a_database_is_no_store(problems: Problems, store: str) -> None:
    """The driver would silently take the user's name for the database."""
    assert "name the database" in problems({"store": store})["store"]


def test_a_database_on_a_server_is_a_store(load: Load, tmp_path: Path) -> None:
    """The password stays out of the URL, in a file."""
    store = {"store": "postgresql+psycopg://shf@db:5432/shf", "store_password_file": str(tmp_path / "secret")}
    settings = load(store)
    assert (settings.store, settings.store_password_file) == (store["store"], tmp_path / "secret")


def test_retention_covers_what_the_budgets_count(load: Load, problems: Problems) -> None:
    """Deleted actions would be forgotten by the guardrails, and a budget be free again too early."""
    limits = {"per": "2d", "heals_within": "2d", "failures_within": "2d"}
    assert load({"retention": "2d", "guardrails": limits}).retention == 2 * 86400
    (message,) = problems({"retention": "2d", "guardrails": {**limits, "per": "49h"}}).values()
    assert "guardrails.per" in message
    own = {"retention": "2d", "guardrails": limits, "services": {"cart": {"guardrails": {"per": "3d"}}}}
    (message,) = problems(own).values()
    assert "services.cart.guardrails.per" in message
    assert set(problems({"retention": "23h"})) == {"retention"}


@pytest.mark.parametrize(
    ("where", "longer"),
    [
        ("strategies.restart.heals_within", {"strategies": {"restart": {"heals_within": "91d"}}}),
        ("strategies.scale.cooldown", {"strategies": {"scale": {"cooldown": "91d"}}}),
        ("fleet.within", {"fleet": {"within": "91d"}}),
    ],
)
def test_retention_covers_every_window(load: Load, problems: Problems, where: str, longer: Any) -> None:
    """Also of a strategy, and of all services together."""
    (message,) = problems({"retention": "90d", "guardrails": longer}).values()
    assert f"guardrails.{where}" in message
    assert load({"retention": "91d", "guardrails": longer}).retention == 91 * 86400


@pytest.mark.parametrize(
    "wrong",
    [
        {"metric": 'up"} or vector(1) #'},
        {"client_label": "source-app"},
        {"server_label": ""},
        {"server": "destination"},
    ],
)
def test_a_service_graph_takes_names_and_no_promql(problems: Problems, wrong: dict[str, str]) -> None:
    """They become part of a query."""
    (name,) = wrong
    found = problems({"correlation": {"service_graph": wrong}})
    assert set(found) == {f"correlation.service_graph.{name}"}


@pytest.mark.parametrize("wrong", [{"window": -1}, {"wait_for_cause": "-1s"}, {"windows": 5}])
def test_wrong_settings_of_correlation_are_refused(problems: Problems, wrong: dict[str, Any]) -> None:
    """A misspelt or impossible one must not leave the default in force."""
    (name,) = wrong
    assert set(problems({"correlation": wrong})) == {f"correlation.{name}"}


@pytest.mark.parametrize("workers", [0, 65, "many"])
def test_an_impossible_number_of_workers_is_refused(problems: Problems, workers: Any) -> None:
    """None would do nothing, and hundreds would wait for each other."""
    assert set(problems({"workers": workers})) == {"workers"}


def test_the_environment_wins_over_the_file(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable replaces one value and leaves its neighbours."""
    monkeypatch.setenv("SHF_PROMETHEUS__URL", "http://elsewhere:9090")
    monkeypatch.setenv("SHF_MODE", "paused")
    settings = load({"mode": "automatic", "prometheus": {"url": "http://file:9090", "timeout": "2s"}})
    assert settings.mode is Mode.PAUSED
    assert (settings.prometheus.url, settings.prometheus.timeout) == ("http://elsewhere:9090", 2.0)


@pytest.mark.parametrize(
    ("name", "path", "text"),
    [
        ("SHF_MOED", "environment SHF_MOED", "no setting is called `moed`; did you mean `mode`?"),
        (
            "SHF_PROMETHEUS__URLL",
            "prometheus.urll (environment SHF_PROMETHEUS__URLL)",
            "unknown setting; did you mean `url`?",
        ),
        (
            "SHF_MODE",
            "mode (environment SHF_MODE)",
            "Input should be 'automatic', 'approval', 'dry_run' or 'paused'",
        ),
    ],
)
def test_a_wrong_variable_is_a_problem(
    problems: Problems, monkeypatch: pytest.MonkeyPatch, name: str, path: str, text: str
) -> None:
    """A misspelt variable is not ignored."""
    monkeypatch.setenv(name, "x")
    assert problems("") == {path: text}


def test_a_mistake_is_told_where_it_was_made(problems: Problems, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside one another: whoever looks into the file for what a variable sets, finds nothing wrong there."""
    monkeypatch.setenv("SHF_THRESHOLDS", '{"heartbeat": "soon", "cpu": 0.5}')
    monkeypatch.setenv("shf_services__cart__health", "nowhere")
    monkeypatch.setenv("SHF_ESCALATION__LEVELS", "[1]")
    monkeypatch.setenv("SHF_AUTH__TOKEN_FILE", "/nowhere/token")
    found = problems({"thresholds": {"memory": "much"}, "services": {"cart": {"tier": "x"}}})
    assert set(found) == {
        "thresholds.heartbeat (environment SHF_THRESHOLDS)",
        "thresholds.memory",
        "services.cart.health (environment shf_services__cart__health)",
        "services.cart.tier",
        "escalation.levels (environment SHF_ESCALATION__LEVELS)",
        "escalation.levels.0 (environment SHF_ESCALATION__LEVELS)",
        "auth.token_file (environment SHF_AUTH__TOKEN_FILE)",
    }


def test_variables_of_kubernetes_are_no_settings(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a cluster with a Service called `shf`, every pod has these; they must not end the start."""
    for name in ("SHF_SERVICE_HOST", "SHF_SERVICE_PORT", "SHF_SERVICE_PORT_HTTP", "SHF_PORT"):
        monkeypatch.setenv(name, "tcp://10.0.0.1:9931")
    monkeypatch.setenv("SHF_PORT_9931_TCP_ADDR", "10.0.0.1")
    assert load({}).mode is Mode.AUTOMATIC


def test_a_token_of_the_environment_counts_beside_other_mistakes(
    problems: Problems, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A container that takes its token from the environment is not told that it has none."""
    token = tmp_path / "token"
    token.write_text("secret")
    monkeypatch.setenv("SHF_LISTEN", "0.0.0.0:9931")
    monkeypatch.setenv("SHF_AUTH__TOKEN_FILE", str(token))
    assert set(problems({"moed": "paused"})) == {"moed"}


@pytest.mark.parametrize("name", ["SHF_PROMETHEUS", "SHF_SERVICES", "SHF_PLANS", "SHF_AUTH"])
def test_a_variable_for_a_whole_section_that_is_no_json_is_a_problem(
    load: Load, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Sections can be given as JSON; what is none is reported with its name, without a traceback."""
    monkeypatch.setenv(name, "{not json")
    with pytest.raises(ConfigurationError, match=name.removeprefix("SHF_").lower()):
        load("")


@pytest.mark.parametrize("rights", [None, ["read"]])
def test_beyond_loopback_a_token_is_needed(
    problems: Problems, tmp_path: Path, rights: list[str] | None
) -> None:
    """An open webhook that restarts services is refused, and so is one that nobody can use."""
    (tmp_path / "token").write_text("s")
    caller = {"rights": rights, "token_file": str(tmp_path / "token")}
    found = problems({"listen": "0.0.0.0:9931", "auth": {"callers": {"wall": caller} if rights else {}}})
    assert set(found) == {"auth.token_file"}
    assert "`listen` on 0.0.0.0 is reachable from outside" in found["auth.token_file"]


def test_with_a_caller_that_may_act_it_may_listen_anywhere(load: Load, tmp_path: Path) -> None:
    """One caller that may send or control is enough; control implies read."""
    (tmp_path / "secret").write_text("one\n")
    for right, known in (("send", {"send"}), ("control", {"control", "read"})):
        caller = {"rights": [right], "username": "am", "password_file": str(tmp_path / "secret")}
        settings = load({"listen": "0.0.0.0:9931", "auth": {"callers": {"am": caller}}})
        (credential,) = settings.auth.credentials()
        assert (credential.scheme, credential.rights) == ("basic", known)
        assert credential.secret() == b"am:one"


@pytest.mark.parametrize(
    ("caller", "where"),
    [
        ({"rights": ["send"]}, "auth.callers.x"),
        ({"rights": ["send"], "username": "x"}, "auth.callers.x"),
        ({"rights": ["send"], "password_file": "SECRET"}, "auth.callers.x"),
        (
            {"rights": ["send"], "username": "x", "password_file": "SECRET", "token_file": "SECRET"},
            "auth.callers.x",
        ),
        ({"rights": [], "token_file": "SECRET"}, "auth.callers.x.rights"),
        ({"rights": ["send", "admin"], "token_file": "SECRET"}, "auth.callers.x.rights.1"),
        ({"rights": ["send"], "username": "a:b", "password_file": "SECRET"}, "auth.callers.x.username"),
        ({"rights": ["send"], "token_file": "MISSING"}, "auth.callers.x.token_file"),
        ({"rights": ["send"], "username": "x", "password_file": "EMPTY"}, "auth.callers.x.password_file"),
    ],
)
def test_a_caller_is_known_in_exactly_one_way(
    problems: Problems, tmp_path: Path, caller: dict[str, Any], where: str
) -> None:
    """By a token, or by a name and a password, in files that hold them."""
    (tmp_path / "SECRET").write_text("s")
    (tmp_path / "EMPTY").write_text(" \n")
    full = {key: str(tmp_path / value) if key.endswith("file") else value for key, value in caller.items()}
    assert set(problems({"auth": {"callers": {"x": full}}})) == {where}


def test_with_a_token_it_may_listen_anywhere_and_the_token_is_read_anew(load: Load, tmp_path: Path) -> None:
    """The file is read at every call, without its newline; it gives every right."""
    token = tmp_path / "token"
    token.write_text("one\n")
    settings = load({"listen": "0.0.0.0:9931", "auth": {"token_file": str(token)}})
    (credential,) = settings.auth.credentials()
    assert (credential.rights, credential.secret()) == (set(Right), b"one")
    token.write_text("two\n")
    assert credential.secret() == b"two"


def test_a_token_file_must_exist_and_hold_a_token(problems: Problems, tmp_path: Path) -> None:
    """A missing, an empty and an unreadable file are told apart, and one that no call could present."""
    missing, empty, binary, two = (tmp_path / name for name in ("missing", "empty", "binary", "two"))
    empty.write_text(" \n")
    binary.write_bytes(b"\xff\xfe\x00")
    two.write_text("one\ntwo\n")
    for path, text in (
        (missing, "cannot be read"),
        (empty, "is empty"),
        (binary, "cannot be read"),
        (two, "more than one line"),
    ):
        found = problems({"auth": {"token_file": str(path)}})
        assert set(found) == {"auth.token_file"}
        assert text in found["auth.token_file"]


def test_a_token_is_never_printed(problems: Problems, tmp_path: Path, load: Load) -> None:
    """Neither a problem nor the settings themselves show what the file holds."""
    token = tmp_path / "token"
    token.write_text("s3cret")
    content = {"auth": {"token_file": str(token)}}
    assert "s3cret" not in repr(load(content))
    assert "s3cret" not in str(problems({**content, "mode": "x"}))


def test_yaml_that_cannot_be_parsed_is_told_with_its_line(problems: Problems) -> None:
    """The line of the mistake is in the text."""
    assert "line 3" in problems("listen: 127.0.0.1:1\nservices:\n  cart: {tier: [}\n")[""]


@pytest.mark.parametrize("text", ["- a\n- b\n", "just text", "5", "1: x", "null: x", "[]"])
def test_anything_but_a_mapping_of_names_is_refused(problems: Problems, text: str) -> None:
    """A list instead of names and values is told as such."""
    assert problems(text) == {"": "the file must hold names and values, as `listen: ...`"}


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"store: 2024-99-99\n", b"mode: \x00\n"])
def test_a_file_that_yaml_cannot_read_is_a_problem(tmp_path: Path, content: bytes) -> None:
    """Bytes that are no text and dates that do not exist make no traceback."""
    path = tmp_path / "shf.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigurationError, match="not valid YAML"):
        load_settings(path)


def test_a_key_that_is_given_twice_is_refused(problems: Problems) -> None:
    """The second of two `guardrails` would silently replace the first."""
    (text,) = problems("guardrails: {max_actions: 1}\nguardrails: {cooldown: 5m}\n").values()
    assert "guardrails" in text


def test_a_key_of_the_settings_library_is_an_unknown_setting(problems: Problems) -> None:
    """`_env_file` in the file does not reach pydantic-settings."""
    assert set(problems({"_env_file": "x", "_cli_parse_args": True})) == {"_env_file", "_cli_parse_args"}


@pytest.mark.parametrize(
    ("listen", "parts"),
    [("127.0.0.1:1", ("127.0.0.1", 1)), ("[::1]:65535", ("::1", 65535)), ("localhost:80", ("localhost", 80))],
)
def test_listen_is_a_host_and_a_port(listen: str, parts: tuple[str, int]) -> None:
    """IPv6 stands in brackets."""
    assert split_listen(listen) == parts


@pytest.mark.parametrize(
    "listen", ["", "9931", ":9931", "host:", "host:0", "host:65536", "host:-1", "host:٣"]
)
def test_listen_without_host_or_port_is_refused(listen: str) -> None:
    """The text shows what to write."""
    with pytest.raises(ValueError, match="for example 127"):
        split_listen(listen)


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),  # noqa: S104 - that is the point
        ("::", False),
        ("10.0.0.1", False),
        ("example.org", False),
        ("127.0.0.1.example.org", False),
        ("", False),
    ],
)
def test_only_addresses_of_this_machine_are_loopback(host: str, loopback: bool) -> None:
    """A name that merely looks like one is not."""
    assert is_loopback(host) is loopback


def test_the_file_is_the_one_given_else_the_variable_else_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """--config wins over SHF_CONFIG, which wins over shf.yaml in the current folder."""
    monkeypatch.chdir(tmp_path)
    given, variable, here = (tmp_path / name for name in ("given.yaml", "variable.yaml", "shf.yaml"))
    with pytest.raises(UsageError, match="--config or SHF_CONFIG"):
        config_path(None)
    for path in (given, variable, here):
        path.touch()
    assert config_path(None) == Path("shf.yaml")
    monkeypatch.setenv("SHF_CONFIG", str(variable))
    assert config_path(None) == variable
    assert config_path(given) == given


def test_plans_keep_their_defaults_for_classes_that_are_not_named(load: Load) -> None:
    """Naming one class does not erase the others."""
    settings = load({"plans": {"degradation": []}})
    assert settings.plans["degradation"] == ()
    assert settings.plans["service_failure"] == ("evict", "rollback", "restart")
