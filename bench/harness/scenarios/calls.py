"""A plugin that reads a header n times and sets one: every language with its stock PDK, beside peers that do it in their own ways."""
from .. import report, servers
from ..anchors import GOAL_CALLS, GOAL_PLAIN, KONG_CALLS, KONG_PLAIN
from ..case import Case
from ..languages import Language, all_languages
from ..servers import Server
from ..session import Session

CALLS = (0, 1, 8, 32)


def gateway(session: Session, language: Language) -> Server | None:
    """A gateway that asks the language's plugin with n calls for requests to /n/."""
    plugin = language.server.plugin
    routes = [{"name": f"calls-{n}", "paths": [f"/{n}/"], "strip_path": False, "plugins": [{"name": plugin, "config": {"calls": n}}]} for n in CALLS]
    return session.silverback(language.series, [language.server], [*routes, {"name": "start", "paths": ["/"]}])


def case_of(language: Language, server: Server, n: int) -> Case:
    """The case of a language with n calls."""
    return Case(language.series, f"{language.label}, n={n}", server, f"/{n}/", calls=n, facts={"n": n},
                goal=GOAL_CALLS.get(language.series, {}).get(n), kong=KONG_CALLS.get(language.series, {}).get(n, ()))


def run(session: Session) -> report.Report:
    """For each n, all languages and peers in the same rounds."""
    settings = session.settings
    yardstick = session.peer("nginx", "plain")
    plain = session.silverback("plain") if settings.wants("silverback") else None
    gateways = [(language, gateway(session, language)) for language in all_languages(settings.workers) if settings.wants(language.series)]
    peers = [name for name in servers.peers("calls") if settings.wants(name) and (name != "nginx" or "nginx" in settings.only or not settings.only)]
    groups = []
    for n in CALLS:
        cases = [Case("nginx", "nginx, no extension", yardstick, facts={"n": n})] if yardstick else []
        if plain:
            cases.append(Case("silverback", "silverback, no plugin", plain, facts={"n": n}, goal=GOAL_PLAIN, kong=KONG_PLAIN))
        cases += [case_of(language, server, n) for language, server in gateways if server]
        extended = [(name, session.peer(name, f"calls={n}")) for name in peers]
        cases += [Case(f"{name}-extension", f"{name} with its extension, n={n}", server, calls=n, facts={"n": n}) for name, server in extended if server]
        groups.append(session.measure(cases))
    return report.of_loads(groups)
