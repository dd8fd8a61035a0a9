"""A theorem about a problem, made for one test and judged."""

from popgd import about
from popgd.theorem.registry import theorems
from popgd.theorem.report import check_setting, resolve


def judged(problem, *claims, eta=0.1, settings=None, **options):
    """The report on these claims."""
    made = about(problem, "stated.test", statement="A test.", claims=claims, eta=eta, **options)
    theorems()[made.name] = made
    try:
        return check_setting(resolve({"theorem": made.name, **(settings or {})}))
    finally:
        del theorems()[made.name]


def outcomes(report):
    """Of claims and self-checks by their ids."""
    return {claim.id: str(claim.outcome) for claim in (*report.claims, *report.self_checks)}
