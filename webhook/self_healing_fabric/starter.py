"""The configuration that `shf init` writes: small, commented, and valid as it stands.

A first file that does nothing surprising: it starts in `dry_run`, so that a new user sees what would be done
before anything is done.
"""

STARTER = """\
# Self-Healing Fabric. All settings: docs/configuration.md. Validate with `shf check`.
listen: 127.0.0.1:9931           # beyond loopback, `auth` is required
store: sqlite:///shf.db
mode: dry_run                    # says what it would do; change to `automatic` when you trust it

prometheus:
  url: http://127.0.0.1:9090
  scrape_interval: 5s            # as in your prometheus.yml
  evaluation_interval: 5s

alertmanager:
  url: http://127.0.0.1:9093
  receiver: self-healing-fabric  # as in the shipped route

services:
  example:                       # the label `service` of its targets, or else the name of its scrape job
    tier: standard               # critical, standard or low
    health: http://127.0.0.1:8080/health
    # depends_on: [database]
    # recovery:
    #   docker: {container: example}
"""
