"""The wanted and the running configuration of a service."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from self_healing_fabric.durations import Duration
from self_healing_fabric.settings.values import CalledUrl, Section

_RELATIVE_PATH = r"^[^/\x00-\x1f][^\x00-\x1f]*$"
_NAMESPACE = r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$"
_OBJECT_NAME = r"^[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?$"


class DesiredConfiguration(Section):
    """Where the wanted configuration is written down: a file, a file of a Git checkout, or a manifest.

    Of a checkout the commit is read, never the working tree: what somebody still edits is not wanted yet.
    """

    file: Path | None = Field(None, description="a file whose bytes are the wanted configuration")
    git: Path | None = Field(
        None, description="a local checkout; its commits are read, its uncommitted edits are not"
    )
    path: str | None = Field(None, pattern=_RELATIVE_PATH, description="with `git`: the file within it")
    revision: str = Field(
        "HEAD",
        pattern=r"^[A-Za-z0-9_][A-Za-z0-9_./@{}^~+-]{0,199}$",
        description="with `git`: the branch, tag or commit",
    )
    manifest: Path | None = Field(None, description="with `live.object`: a file with its manifest")

    @model_validator(mode="after")
    def _one_place(self) -> DesiredConfiguration:
        if sum(each is not None for each in (self.file, self.git, self.manifest)) != 1:
            raise ValueError("give exactly one of `file`, `git` and `manifest`")
        if (self.git is None) is not (self.path is None):
            raise ValueError("`git` is the checkout and `path` the file within it: give both or neither")
        return self


class ConfigMapKey(Section):
    """One key of a ConfigMap."""

    namespace: str = Field("default", pattern=_NAMESPACE, description="where it is")
    name: str = Field(pattern=_OBJECT_NAME, description="name of the ConfigMap")
    key: str = Field(pattern=r"^[-._a-zA-Z0-9]{1,253}$", description="the key that holds the configuration")


class KubernetesObject(Section):
    """One object, by name: a manifest that names another one is not applied."""

    api_version: str = Field(
        "v1", pattern=r"^([a-z0-9.-]+/)?v[0-9][a-z0-9]*$", description="as in the manifest: `apps/v1`"
    )
    kind: str = Field(pattern=r"^[A-Z][A-Za-z0-9]{0,62}$", description="as in the manifest: `Deployment`")
    namespace: str | None = Field(None, pattern=_NAMESPACE, description="where it is; none: of the cluster")
    name: str = Field(pattern=_OBJECT_NAME, description="its name")


class LiveConfiguration(Section):
    """Where the configuration is in force.

    The URL answers GET with the configuration and an `ETag`, and takes PUT with `If-Match`.
    """

    http: CalledUrl | None = Field(None, description="GET answers it with an ETag, PUT with If-Match sets it")
    bearer_token_file: Path | None = Field(None, description="with `http`: token to send; read anew")
    configmap: ConfigMapKey | None = Field(None, description="a key of a ConfigMap")
    object: KubernetesObject | None = Field(None, description="an object, by server-side apply")
    timeout: Duration = Field(10.0, gt=0, le=30, description="for one call")

    @model_validator(mode="after")
    def _one_place(self) -> LiveConfiguration:
        if sum(each is not None for each in (self.http, self.configmap, self.object)) != 1:
            raise ValueError("give exactly one of `http`, `configmap` and `object`")
        return self


class ConfigurationSettings(Section):
    """The wanted and the running configuration of a service, for drift and for `sync`."""

    desired: DesiredConfiguration = Field(description="the wanted configuration")
    live: LiveConfiguration = Field(description="the running one")
    format: Literal["yaml", "json", "text"] = Field(
        "text", description="yaml and json are compared by what they mean, text by its bytes"
    )
    secrets: tuple[str, ...] = Field(
        (),
        description="more parts of keys whose values are masked, besides password, token, key, ...",
    )
    restart: bool = Field(
        False, description="whether the process must be restarted to read it; `sync` is followed by `restart`"
    )
    force: bool = Field(False, description="with `live.object`: take fields over from other field managers")
    interval: Duration = Field(60.0, ge=1, description="between two comparisons")

    @model_validator(mode="after")
    def _fits(self) -> ConfigurationSettings:
        of_object = self.live.object is not None
        if self.desired.manifest is not None and not of_object:
            raise ValueError("`desired.manifest` is for `live.object`; give `desired.file`")
        if self.desired.file is not None and of_object:
            raise ValueError("`live.object` needs `desired.manifest` or `desired.git`")
        if self.force and not of_object:
            raise ValueError("`force` is for `live.object`")
        return self
