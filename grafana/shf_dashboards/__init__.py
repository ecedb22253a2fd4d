"""Dashboards as code: each module of a dashboard builds it, `files` makes the JSON that is committed.

Thirty kilobytes of JSON cannot be reviewed, this can. What is written is Grafana's classic model with
`schemaVersion` 42, the newest that file provisioning takes everywhere.
"""
