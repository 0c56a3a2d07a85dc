"""The console says of each rule what it does beside its weights, and what answers 500 because of what."""

import pytest
from worlds.routed import TO_P, P, applied, pool_text, route_text

from pointsman.core.rollout.answers import refused_shares
from pointsman.web.pages.rule_words import rule_words


def words_of(rule: str, *texts: str) -> tuple[str, ...]:
    """What is said of the first rule of a route."""
    state, _ = applied(pool_text(), route_text(rule), *texts)
    return rule_words(state, state.routes["default/r"], 0)


@pytest.mark.parametrize(
    ("rule", "sentences"),
    [
        (f"  - {TO_P.strip()}\n", ()),
        (
            "  - filters: [{type: RequestRedirect, requestRedirect: {scheme: https, statusCode: 301, path: {type: ReplaceFullPath, replaceFullPath: /docs}}}]\n",
            ("Clients are sent elsewhere with 301: https, the path /docs.",),
        ),
        (
            "  - filters: [{type: URLRewrite, urlRewrite: {hostname: a.b, path: {type: ReplacePrefixMatch, replacePrefixMatch: /v1}}}]\n"
            + TO_P,
            ("Requests get the host a.b and /v1 in the place of the prefix that was matched.",),
        ),
        (
            "  - filters: [{type: ResponseHeaderModifier, responseHeaderModifier: {set: [{name: A, value: b}], add: [{name: c, value: d}], remove: [e]}}]\n"
            + TO_P,
            ("Responses have headers changed: a is set, c is added, e is removed.",),
        ),
        (
            f"  - filters: [{{type: RequestMirror, requestMirror: {{backendRef: {P[2:]}, percent: 5}}}}]\n{TO_P}",
            ("5.0 % of the requests are copied to default/p; no picker is asked for a copy.",),
        ),
        (
            "  - retry: {codes: [500, 503], attempts: 2}\n    timeouts: {request: 20s, backendRequest: 5s}\n" + TO_P,
            (
                "Attempts that end with no answer, or with 500, 503 are made again, 2 times at most.",
                "A request may take 20.0 s.",
                "An attempt may take 5.0 s.",
            ),
        ),
        ("  - filters: [{type: CORS}]\n" + TO_P, ("Every request gets 500: filters of type CORS are not made.",)),
        ("  - matches: [{path: {value: /a}}]\n", ("Every request gets 500: no backend has a weight.",)),
        (
            "  - matches: [{path: {value: /a}, headers: [{type: RegularExpression, name: b, value: '('}]}]\n" + TO_P,
            (
                "What paths below /a with 1 condition may be for gets 500: the regular expression '(' is none of RE2: missing ): (.",
            ),
        ),
        (
            f"  - backendRefs: [{P[2:-1]}, filters: [{{type: RequestHeaderModifier, requestHeaderModifier: {{remove: [a]}}}}]}}]\n",
            ("Requests on their way to p have headers changed: a is removed.",),
        ),
        (
            f"  - backendRefs: [{P[2:-1]}, namespace: lab}}, {{name: web}}]\n",
            (
                "The share of lab/p gets 500: no ReferenceGrant of namespace lab lets an HTTPRoute of default use the pool.",
                "The share of web gets 500: the gateway serves InferencePools alone, and no Service.",
            ),
        ),
    ],
)
def test_a_rule_is_told_in_sentences(rule: str, sentences: tuple[str, ...]) -> None:
    assert words_of(rule) == sentences


def test_shares_that_other_objects_refuse_are_told_once_and_those_of_the_file_itself_by_its_warnings() -> None:
    rule = f"  - backendRefs: [{P[2:-1]}, namespace: lab}}, {P[2:].replace('name: p', 'name: gone')}, {{name: web}}]\n"
    state, warnings = applied(pool_text(), route_text(rule))

    told = refused_shares(state.routes.values(), state.pools, state.grants.values())
    assert told == [
        "default/r, rule 1: the share of lab/p gets 500: no ReferenceGrant of namespace lab lets an HTTPRoute of default use the pool",
        "default/r, rule 1: the share of default/gone gets 500: there is no such pool",
    ]
    [warning] = warnings
    assert "no Service: this share gets 500" in warning
