"""A plugin that reads a header n times and sets one: every language, beside peers that do it in their own ways."""

from .. import report, servers
from ..anchors import GOAL_CALLS, GOAL_PLAIN, KONG_CALLS, KONG_PLAIN
from ..case import Case
from ..gateway import with_calls
from ..languages import Language, all_languages
from ..servers import Server
from ..session import Session

CALLS = (0, 1, 8, 32)


def case_of(language: Language, server: Server, n: int, connections: int | None = None) -> Case:
    """The case of a language with n calls."""
    return Case(
        language.series,
        f"{language.label}, n={n}",
        server,
        f"/{n}/",
        calls=n,
        connections=connections,
        facts={"n": n},
        goal=GOAL_CALLS.get(language.series, {}).get(n),
        kong=KONG_CALLS.get(language.series, {}).get(n, ()),
    )


def run(session: Session) -> report.Report:
    """For each n, all languages and peers in the same rounds."""
    settings = session.settings
    yardstick = session.yardstick()
    plain = session.silverback("plain") if settings.wants("silverback") else None
    languages = [language for language in all_languages(settings.workers) if settings.wants(language.series)]
    gateways = [(language, session.silverback(language.series, with_calls(language, CALLS))) for language in languages]
    groups = []
    for n in CALLS:
        cases = [Case("nginx", "nginx, no extension", yardstick, facts={"n": n})]
        if plain:
            cases.append(
                Case("silverback", "silverback, no plugin", plain, facts={"n": n}, goal=GOAL_PLAIN, kong=KONG_PLAIN)
            )
        cases += [case_of(language, server, n) for language, server in gateways if server]
        peers = [
            (name, session.peer(name, f"calls={n}"))
            for name in servers.peers("calls")
            if settings.wants(f"{name}-extension")
        ]
        cases += [
            Case(f"{name}-extension", f"{name} with its extension, n={n}", server, calls=n, facts={"n": n})
            for name, server in peers
            if server
        ]
        groups.append(session.measure(cases))
    return report.of_loads(groups)
