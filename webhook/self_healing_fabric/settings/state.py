"""The replicas and backups of a service that must hold one state."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import Field, model_validator

from self_healing_fabric.durations import Duration
from self_healing_fabric.settings.values import CalledUrl, Section

LEAST_DOMAINS = 3  # of two that differ nobody can tell which one is right
VoterName = Annotated[str, Field(pattern=r"^[A-Za-z0-9]([A-Za-z0-9._-]{0,62}[A-Za-z0-9])?$")]


class StateReplica(Section):
    """A replica that must hold the same state as the others, and serves it."""

    name: VoterName = Field(description="what it is called in timelines")
    url: CalledUrl = Field(description="base URL of its state ([contract](state-repair.md))")
    failure_domain: str | None = Field(
        None,
        min_length=1,
        description="what it fails together with: all in one have one vote; by default the host of `url`",
    )

    @property
    def domain(self) -> str:
        """The failure domain; two ports of one host share its disk and its power."""
        return self.failure_domain or str(urlsplit(self.url).hostname)


class StateBackup(Section):
    """A copy of the state that votes, and is copied from when no replica is right."""

    name: VoterName = Field(description="what it is called in timelines")
    path: str = Field(min_length=1, description="path or URL (fsspec) of the file with the state's bytes")
    manifest: str | None = Field(
        None,
        min_length=1,
        description="JSON with its `digest`, `version` and `bytes`; by default `path` and `.manifest.json`",
    )

    failure_domain: str | None = Field(
        None,
        min_length=1,
        description="as of a replica; by default the bucket or host of `path`, or the local disk",
    )

    @property
    def domain(self) -> str:
        """The failure domain; all files of one bucket, or of the fabric's own disk, are of one."""
        place = urlsplit(self.path.rpartition("::")[2])
        return self.failure_domain or (f"{place.scheme}://{place.netloc}" if place.netloc else "local disk")

    @property
    def manifest_path(self) -> str:
        """Where the manifest is."""
        return self.manifest or f"{self.path}.manifest.json"


class RestoreJob(Section):
    """A CronJob on Kubernetes whose Job restores replicas; it may be suspended."""

    cronjob: str = Field(pattern=r"^[a-z0-9]([a-z0-9.-]{0,50}[a-z0-9])?$", description="name of the CronJob")
    namespace: str = Field(
        "default", pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$", description="where it is"
    )


class StateSettings(Section):
    """The replicas and backups that must hold one state: the majority of their failure domains is right."""

    replicas: tuple[StateReplica, ...] = Field(min_length=1, description="who holds the state")
    backups: tuple[StateBackup, ...] = Field((), description="where copies of it are")
    keep_aside: str = Field(
        min_length=1,
        description="folder (path or URL, fsspec) where a damaged state is kept before it is replaced",
    )
    restore_job: RestoreJob | None = Field(
        None, description="restores the damaged replicas instead of a PUT to each of them"
    )
    pause: Duration = Field(
        2.0,
        ge=0,
        le=10,
        description="between two looks at all digests; a state that changes meanwhile is left alone",
    )
    timeout: Duration = Field(10.0, gt=0, le=15, description="for each digest, each state, each order")
    max_bytes: int = Field(64 * 1024 * 1024, ge=1, le=1024**3, description="larger states are not repaired")
    bearer_token_file: Path | None = Field(
        None, description="token to send to the replicas; read anew for every call"
    )

    @model_validator(mode="after")
    def _can_be_decided(self) -> StateSettings:
        voters: tuple[StateReplica | StateBackup, ...] = (*self.replicas, *self.backups)
        for what, values in (
            ("name", [voter.name for voter in voters]),
            ("url", [replica.url.rstrip("/") for replica in self.replicas]),
            ("path", [backup.path for backup in self.backups]),
        ):
            twice = sorted({value for value in values if values.count(value) > 1})
            if twice:
                raise ValueError(
                    f"the same {what} twice would be one source with two votes: {', '.join(twice)}"
                )
        domains = sorted({voter.domain for voter in voters})
        if len(domains) < LEAST_DOMAINS:
            raise ValueError(
                f"{len(domains)} failure domains ({', '.join(domains)}) can never out-vote one that is wrong:"
                f" name replicas and backups in at least {LEAST_DOMAINS}"
            )
        return self
