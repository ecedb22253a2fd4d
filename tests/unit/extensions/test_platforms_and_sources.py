"""Platforms and evidence sources of plugins: used where a service names them, and held to their time."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from plugin_packages import write_package
from self_healing_fabric.diagnosis.sources import sources_of
from self_healing_fabric.diagnosis.sources.inquiry import Inquiry
from self_healing_fabric.integration.lifecycle import Fabric
from self_healing_fabric.integration.status import StateCollector
from self_healing_fabric.recovery.effects import NotApplicable, TargetUnreadable
from self_healing_fabric.recovery.outcomes import Outcome, Status
from self_healing_fabric.recovery.platforms import owner_of, platform_of
from self_healing_fabric.recovery.strategies import strategies
from self_healing_fabric.settings import Settings

PLATFORM = """
    from pydantic import BaseModel

    from self_healing_fabric.recovery.effects import Effect, NotApplicable
    from self_healing_fabric.recovery.outcomes import Outcome, Status

    class Options(BaseModel):
        unit: str

    class Restart(Effect):
        platform, longest_effect, renews_process = "systemd", 10.0, True
        orders = []

        def __init__(self, unit):
            self.target = f"systemd:{unit}"

        def perform(self, *, key, attempt, before, permit):
            self.orders.append(self.target)
            return Outcome(Status.SUCCEEDED, "done")

    class Systemd:
        Options = Options

        def __init__(self, service, options):
            if options.unit == "broken":
                raise OSError("no bus")
            self.unit, self.target = options.unit, f"systemd:{options.unit}"

        def effect(self, strategy):
            if strategy != "restart":
                raise NotApplicable(f"systemd cannot {strategy}")
            return Restart(self.unit)

        def check(self):
            return f"{self.unit} is active"
"""
SOURCES = """
    import time

    from self_healing_fabric.diagnosis.sources import Fact, Report, SourceUnusable
    from self_healing_fabric.incidents.evidence import Evidence

    def source(answer):
        class Made:
            def __init__(self, service, options):
                self.service = service

            def look(self, at, within):
                return answer(self.service, at)
        return Made

    def refuse(service, at):
        raise SourceUnusable("no journal here")

    def seen(service, at):
        return Report((Fact(Evidence(f"{service} was seen.", "look", 1.0, at)),))

    works, hangs = source(seen), source(lambda *_: time.sleep(120))
    raises, refuses = source(lambda *_: 1 / 0), source(refuse)
    nonsense = source(lambda *_: "all is well")
"""
NAMES = ("works", "hangs", "raises", "refuses", "nonsense")


def settings_of(tmp_path: Path, unit: str, **more: object) -> Settings:
    recovery = {"platform": {"systemd": {"unit": unit}}, **more}
    services = {
        "cart": {"recovery": recovery},
        "till": {"recovery": {"platform": {"systemd": {"unit": "till"}}}},
    }
    return Settings(store=f"sqlite:///{tmp_path}/shf.db", services=services)


def test_a_service_is_restarted_on_the_platform_of_a_plugin(packages: Path, tmp_path: Path) -> None:
    """The built-in strategy `restart` uses it, and guardrails count by its target."""
    write_package(packages, PLATFORM, {"platforms": {"systemd": "Systemd"}})
    settings = settings_of(tmp_path, "cart.service")
    known = strategies(settings)
    effect = known["restart"].on("cart")
    done = effect.perform(key="k", attempt=1, before={}, permit=lambda: True)
    assert done == Outcome(Status.SUCCEEDED, "done")
    import shf_acme  # type: ignore[import-not-found]

    assert shf_acme.Restart.orders == ["systemd:cart.service"]
    assert owner_of("cart", settings) == effect.target == "systemd:cart.service"
    assert effect.renews_process
    platform = platform_of("cart", settings)
    assert platform is not None
    assert platform.check() == "cart.service is active"
    with pytest.raises(NotApplicable, match="systemd cannot scale"):
        known["scale"].on("cart")


def test_a_platform_that_cannot_be_made_harms_its_service_only(packages: Path, tmp_path: Path) -> None:
    """The fabric starts and exports the state of the others."""
    write_package(packages, PLATFORM, {"platforms": {"systemd": "Systemd"}})
    settings = settings_of(tmp_path, "broken")
    with pytest.raises(TargetUnreadable, match="plugin systemd raised OSError: no bus"):
        platform_of("cart", settings)
    fabric = Fabric(settings)
    try:
        series = [sample for family in StateCollector(fabric).collect() for sample in family.samples]
    finally:
        fabric.stop()
    limited = {sample.labels["service"] for sample in series if sample.name == "shf_guardrail_limit"}
    assert limited == {"*", "till"}


def test_one_platform_only(packages: Path, tmp_path: Path) -> None:
    """Which of two would restart it must not depend on an order in our code."""
    write_package(packages, PLATFORM, {"platforms": {"systemd": "Systemd"}})
    with pytest.raises(ValueError, match="give one platform"):
        settings_of(tmp_path, "cart.service", docker={"container": "cart"})


def test_sources_that_misbehave_are_named_as_missing(packages: Path) -> None:
    """What the others saw is there in time, and each that gave nothing is told with its reason."""
    write_package(packages, SOURCES, {"evidence_sources": {name: name for name in NAMES}})
    settings = Settings(services={"cart": {"evidence_sources": {name: {} for name in NAMES}}})
    makers = sources_of("cart", settings.services["cart"], settings.kubernetes, ())
    inquiry = Inquiry(makers, at=time.time(), within=1.0)
    report = inquiry.report()
    assert [fact.evidence.statement for fact in report.facts] == ["cart was seen."]
    assert [fact.evidence.source for fact in report.facts] == ["works"]
    missing = "\n".join(report.missing)
    assert len(report.missing) == 4
    assert "hangs: plugin hangs did not return within" in missing
    assert "raises: plugin raises raised ZeroDivisionError" in missing
    assert "refuses: no journal here" in missing
    assert "nonsense: it answered str, not a Report" in missing
