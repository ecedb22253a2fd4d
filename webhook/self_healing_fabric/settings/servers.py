"""The servers that are asked: Prometheus, Alertmanager and the Kubernetes API."""

from __future__ import annotations

from pathlib import Path
from typing import Self

from pydantic import Field, model_validator

from self_healing_fabric.durations import Duration
from self_healing_fabric.settings.access import Username, basic_headers, bearer_headers, check_pair
from self_healing_fabric.settings.values import CalledUrl, HttpUrl, Section

_URL = "base URL, with its path prefix if it has one"


class _AskedServer(Section):
    """One that may ask who calls it: by itself for a username, behind a proxy for a token, too."""

    url: CalledUrl = Field(description=_URL)
    timeout: Duration = Field(5.0, gt=0, le=30, description="for one call")
    bearer_token_file: Path | None = Field(None, description="token to send; read anew for every call")
    username: Username | None = Field(None, description="instead of a token: HTTP basic authentication")
    password_file: Path | None = Field(None, description="of `username`; read anew for every call")

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        check_pair(self.username, self.password_file)
        if self.bearer_token_file is not None and self.password_file is not None:
            raise ValueError("give either `bearer_token_file`, or `username` and `password_file`")
        return self

    def headers(self) -> dict[str, str]:
        """Those that say who asks, to be sent with each call. Raises SecretUnusable."""
        if self.username is not None and self.password_file is not None:
            return basic_headers(self.username, self.password_file)
        return bearer_headers(self.bearer_token_file)


class PrometheusSettings(_AskedServer):
    """The Prometheus that evaluates the rules and answers for the evidence."""

    url: CalledUrl = Field("http://127.0.0.1:9090", description=_URL)
    external_url: HttpUrl | None = Field(
        None, description="where people reach it, for links; `url` by default"
    )
    scrape_interval: Duration = Field(5.0, gt=0, description="how often the services are scraped")
    evaluation_interval: Duration = Field(5.0, gt=0, description="how often the rules are evaluated")


class GrafanaSettings(Section):
    """The Grafana that shows the dashboards; the fabric never calls it."""

    url: HttpUrl = Field(description="where people reach it")


class AlertmanagerSettings(_AskedServer):
    """The Alertmanager whose notifications may be lost: it is asked for them every 10 s."""

    receiver: str = Field("self-healing-fabric", description="the receiver that leads to the fabric")


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
