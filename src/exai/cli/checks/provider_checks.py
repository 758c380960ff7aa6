"""Checks of the providers of models: by what the daemon says, else by the configuration.

A key is looked for, and never tried: no check asks anybody outside this machine.
"""

from collections.abc import Iterator

from exai.cli.checks.evidence import Evidence
from exai.cli.checks.finding import Finding, ok, problem, warning
from exai.cli.health_picture import Provider
from exai.core.config import Config
from exai.providers.local_model import missing_of_model
from exai.providers.openai_compatible import missing_key

_LOCAL = "local"


def providers(evidence: Evidence) -> Iterator[Finding]:
    """Has each what it needs, and is there one that works?"""
    known = list(_by_configuration(evidence.loaded.config)) if evidence.is_whole else []
    told = evidence.health.providers if evidence.health else None
    able_here = {one.provider for one in known if one.is_configured}
    found = list(told if told is not None else known)
    works = any(one.is_configured for one in found)
    for one in found:
        if not one.is_configured and told is not None and one.provider in able_here:
            yield problem(
                f"provider {one.provider}",
                "the daemon that runs lacks what this configuration has",
                "restart the daemon",
            )
        else:
            yield _judge(one, evidence, works=works)
    if told is not None:
        for name in able_here - {one.provider for one in told}:
            yield warning(
                f"provider {name}", "the daemon that runs does not know it", "restart the daemon"
            )


def _judge(one: Provider, evidence: Evidence, *, works: bool) -> Finding:
    check = f"provider {one.provider}"
    if one.is_configured:
        return ok(check, f"has what it needs for {', '.join(one.models) or 'its models'}")
    missing = one.missing or "it is not configured"
    if one.provider == _LOCAL:
        if not works:
            return problem(check, f"no model can answer: {missing}")
        is_wanted = evidence.loaded.config.local.enabled
        return warning(check, missing) if is_wanted else ok(check, "is switched off")
    is_wanted = any(key.startswith(f"providers.{one.provider}.") for key in evidence.loaded.sources)
    return problem(check, missing) if is_wanted else ok(check, f"is not used: {missing}")


def _by_configuration(config: Config) -> Iterator[Provider]:
    for name, one in config.providers.items():
        missing = missing_key(name, one)
        yield Provider(name, missing is None, one.models, missing)
    missing = missing_of_model(config.local)
    yield Provider(_LOCAL, missing is None, (config.local.model_name,), missing)
