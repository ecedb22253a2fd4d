"""The servers that are asked: Prometheus, Alertmanager and the Kubernetes API."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from self_healing_fabric.durations import Duration
from self_healing_fabric.settings.values import CalledUrl, HttpUrl, Section


class PrometheusSettings(Section):
    """The Prometheus that evaluates the rules and answers for the evidence."""

    url: CalledUrl = Field(
        "http://127.0.0.1:9090", description="base URL, with its path prefix if it has one"
    )
    external_url: HttpUrl | None = Field(
        None, description="where people reach it, for links; `url` by default"
    )
    timeout: Duration = Field(5.0, gt=0, le=30, description="for one query")
    scrape_interval: Duration = Field(5.0, gt=0, description="how often the services are scraped")
    evaluation_interval: Duration = Field(5.0, gt=0, description="how often the rules are evaluated")
    bearer_token_file: Path | None = Field(None, description="token to send; read anew for every call")


class GrafanaSettings(Section):
    """The Grafana that shows the dashboards; the fabric never calls it."""

    url: HttpUrl = Field(description="where people reach it")


class AlertmanagerSettings(Section):
    """The Alertmanager whose notifications may be lost: it is asked for them every 10 s."""

    url: CalledUrl = Field(description="base URL")
    receiver: str = Field("self-healing-fabric", description="the receiver that leads to the fabric")
    timeout: Duration = Field(5.0, gt=0, le=30, description="for one call")
    bearer_token_file: Path | None = Field(None, description="token to send; read anew for every call")


class KubernetesSettings(Section):
    """The API server that is asked about the services on Kubernetes, and repairs them.

    Without `kubeconfig` and `context` the fabric takes the service account of the pod that it runs in.
    """

    kubeconfig: Path | None = Field(
        None, description="how to reach the API server; from within it: not needed"
    )
    context: str | None = Field(None, description="of the kubeconfig; its current one by default")
    timeout: Duration = Field(3.0, gt=0, le=30, description="for one call")
    namespaces: tuple[str, ...] = Field(
        (), description="the only ones in which services may be; any by default"
    )
