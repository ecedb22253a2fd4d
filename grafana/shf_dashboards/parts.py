"""What the dashboards share: variables, links, annotations, and how zero is told from unknown.

`... or vector(0)` would say "0 open incidents" when the fabric itself is gone. So a zero is made from a
series that only a living fabric exports (`ALIVE`), and a panel that has none says that it knows nothing.

The other words for nothing are `NOTHING_YET`: a median of no recoveries is neither 0 s nor unknown. Such a
query answers -1 then, which a mapping turns into words.

Gauges that a fabric reads from its store are the same in every replica, hence `max by`; counters are each
replica's own, hence `sum`. `cluster` is a label of the targets, where there are several: `.*` also matches
none.
"""

from __future__ import annotations

from typing import Any

from grafana_foundation_sdk.builders import dashboard
from grafana_foundation_sdk.models import common as common_model
from grafana_foundation_sdk.models import dashboard as model

SOURCE = common_model.DataSourceRef(type_val="prometheus", uid="${datasource}")
TAG = "self-healing-fabric"
RUNBOOKS = "https://github.com/self-healing-fabric/self-healing-fabric/blob/main/alert_rules/runbooks"

CLUSTER = 'cluster=~"$cluster"'
# A service of the registry, and a Prometheus outside of all clusters, name none: they belong to each.
CLUSTER_OR_NONE = 'cluster=~"$cluster|"'
SERVICE = 'cluster=~"$cluster", service=~"$service"'
ALIVE = f"0 * max(shf_build_info{{{CLUSTER}}})"  # zero as long as a fabric is scraped, else nothing
NOTHING_YET = f"{ALIVE} - 1"
RULES_RUN = (
    '0 * max(ALERTS{alertname="ShfWatchdog", alertstate="firing"})'  # it always fires: zero, or nothing
)

NO_FABRIC = "unknown: no fabric is scraped"
NO_RULES = "unknown: its rules are not evaluated"
WATCHDOG_SILENT = "unknown: ShfWatchdog does not fire, so the rules are not evaluated"

HEALTHY, WORKING, BAD, NEUTRAL, ASKING = "green", "orange", "red", "text", "purple"


def start(uid: str, title: str, description: str, *, annotated: bool = True) -> dashboard.Dashboard:
    """An empty dashboard with what all have in common.

    Args:
        uid: part of its address; never changed, since people keep it as a bookmark.
        title: after the name of the product.
        description: what it is for, in a sentence.
        annotated: whether incidents and actions are marked from the start. They come from one query for the
            whole dashboard: in rows that repeat for each service, each row would show the marks of all.
    """
    built = (
        dashboard.Dashboard(f"Self-Healing Fabric / {title}")
        .uid(uid)
        .description(description)
        .tags([TAG])
        .readonly()
        .time("now-6h", "now")
        .refresh("10s")
        .timezone("browser")
        .tooltip(model.DashboardCursorSync.CROSSHAIR)
    )
    for variable in variables():
        built.with_variable(variable)
    for annotation in annotations(enabled=annotated):
        built.annotation(annotation)
    return built.links(links())


def links() -> list[dashboard.DashboardLink]:
    """To the other dashboards with time and variables kept, to the fabric's own pages, to the runbooks."""
    others = dashboard.DashboardLink("Self-Healing Fabric").type(model.DashboardLinkType.DASHBOARDS)
    pages = dashboard.DashboardLink("Incident pages").type(model.DashboardLinkType.LINK).icon("external link")
    books = dashboard.DashboardLink("Runbooks").type(model.DashboardLinkType.LINK).icon("doc")
    return [
        others.tags([TAG]).as_dropdown(True).keep_time(True).include_vars(True),
        pages.url("${fabric}/").target_blank(True).tooltip("What the fabric says of each incident"),
        books.url("${runbooks}").target_blank(True).tooltip("What to do when an alert fires"),
    ]


def variables() -> list[Any]:
    """Which Prometheus, clusters and services; hidden: where the fabric and the runbooks are."""
    clusters = _chosen("cluster", "Cluster", f"label_values(shf_build_info, {'cluster'})")
    services = _chosen(
        "service", "Service", f"label_values(shf_service_state{{{CLUSTER}}}, service)"
    )  # `All` also means alerts that name no configured service
    fabric = dashboard.QueryVariable("fabric").datasource(SOURCE).hide(model.VariableHide.HIDE_VARIABLE)
    fabric.query(f"label_values(shf_external_url_info{{{CLUSTER}}}, url)")
    fabric.refresh(model.VariableRefresh.ON_TIME_RANGE_CHANGED).sort(model.VariableSort.ALPHABETICAL_ASC)
    # Of type constant, which a link cannot change and which is always hidden.
    books = dashboard.ConstantVariable("runbooks").value(RUNBOOKS)
    return [
        dashboard.DatasourceVariable("datasource").label("Data source").type("prometheus"),
        clusters,
        services,
        fabric,
        books,
    ]


def _chosen(name: str, label: str, query: str) -> dashboard.QueryVariable:
    variable = dashboard.QueryVariable(name).label(label).datasource(SOURCE).query(query)
    variable.refresh(model.VariableRefresh.ON_TIME_RANGE_CHANGED).sort(model.VariableSort.ALPHABETICAL_ASC)
    variable.multi(True).include_all(True).all_value(".*")
    return variable.current(model.VariableOption(text="All", value="$__all"))


def annotations(*, enabled: bool) -> list[dashboard.AnnotationQuery]:
    """Marks on all graphs: an incident was opened, an action ended.

    The window is that of the step and one scrape more, so that nothing falls between two steps. A fabric that
    starts anew counts from 0: that is no increase, but it would be a change.
    """
    opened = (
        f"sum by (cluster, service) (increase(shf_incidents_opened_total{{{SERVICE}}}[$__rate_interval])) > 0"
    )
    done = (
        "sum by (cluster, service, strategy, outcome) "
        f"(increase(shf_recovery_actions_total{{{SERVICE}}}[$__rate_interval])) > 0"
    )
    return [
        _annotation("Incidents", opened, "Incident of {{service}}", WORKING, enabled),
        _annotation("Actions", done, "{{strategy}} of {{service}}: {{outcome}}", "blue", enabled),
    ]


def _annotation(
    name: str, expression: str, title: str, colour: str, enabled: bool
) -> dashboard.AnnotationQuery:
    built = dashboard.AnnotationQuery().name(name).datasource(SOURCE).enable(enabled).hide(False)
    built.icon_color(colour).expr(expression).step("1m").title_format(title).tag_keys("service")
    return built
