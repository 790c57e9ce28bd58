"""What the claims of a verified token mean: whether they may be believed, and whom they name.

The signature is not checked here. Rules: RFC 8725 (JSON Web Token Best Current Practices), RFC 9068 section 4 (access
tokens), RFC 7662 (introspection), OpenID Connect Core section 2.
"""

from __future__ import annotations

import json
import math
import unicodedata
from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from datetime import UTC, datetime

from app.domain.errors import NotAuthenticated
from app.domain.grants import claim_matches
from app.domain.identity import Claim, Credential, CredentialKind, Identity, PrincipalKind, Scope, check_subject
from app.domain.issuers import TrustedIssuer

Claims = Mapping[str, object]

LONGEST_NAME = 200
LONGEST_ACR = 255
CLOCKS_DIFFER_S = 60
"""How far an issuer's clock may be ahead of ours."""
LONGEST_GROUP = 255
MOST_CLAIMS = 64
LONGEST_CLAIM = 1024
"""Bytes of one claim that is kept for grants; of a list, all its texts together."""
DEEPEST_CLAIM = 3
"""Levels of objects below which nothing is kept, as ``kubernetes.io.serviceaccount.name``."""
SCOPE_PREFIX = "countersign:"
CLIENT_PREFIX = "client:"

ACCESS_TOKEN_TYPES = frozenset({"jwt", "at+jwt"})
"""``typ`` of an access token's header (RFC 9068 section 2.1); older issuers say JWT, or nothing."""

_SAY_THE_TYPE = ("typ", "token_use", "token_type")
"""Claims by which Keycloak, Cognito, Hydra and introspection (RFC 7662 section 2.2) say what a token is."""

NOT_KEPT = frozenset(
    {"iss", "sub", "aud", "exp", "iat", "nbf", "jti", "nonce", "at_hash", "c_hash", "s_hash", "auth_time"}
    | {"sid", "session_state", "cnf", "active", "_claim_names", "_claim_sources", *_SAY_THE_TYPE}
    | {"updated_at", "aio", "rh", "uti", "event_id", "origin_jti"}
)
"""Claims that say nothing of who somebody is, or that differ with each token."""

CLIENT_CLAIMS = frozenset({"client_id", "azp", "cid", "clientId"})
"""The client that a token was given to, as issuers name it (RFC 9068 section 2.2; Okta's ``cid``)."""

_OF_ID_TOKENS = ("at_hash", "c_hash", "s_hash")
_OF_JOBS = ("job_workflow_ref", "pipeline_source", "pipeline_slug", "terraform_run_id", "kubernetes.io")
_ACCESS = frozenset({"bearer", "access", "access_token", "at+jwt"})


def refused(why: str) -> NotAuthenticated:
    """The refusal of a token, for the person who holds it."""
    return NotAuthenticated(f"The token {why}.", error="invalid_token")


def check_claims(issuer: TrustedIssuer, claims: Claims, *, now: float, explicit: bool = False) -> float:
    """Refuse a token that is not an access token of this issuer, for us, now.

    Args:
        issuer: who is trusted for what.
        claims: the payload of a token whose signature verified.
        now: seconds since the epoch.
        explicit: whether the header says ``at+jwt``.

    Returns:
        When it expires, in seconds since the epoch.

    Raises:
        NotAuthenticated: says which claim is wrong, and never quotes it.
    """
    if claims.get("iss") != issuer.issuer:
        raise refused("comes from another issuer")
    check_audience(issuer, claims)
    expires_at = check_times(claims, leeway_s=issuer.leeway_s, now=now)
    if expires_at is None:
        raise refused("has no valid `exp` claim")
    check_is_access_token(claims, explicit=explicit)
    check_rules(issuer, claims)
    return expires_at


def check_audience(issuer: TrustedIssuer, claims: Claims) -> None:
    """Refuse what is for somebody else.

    Raises:
        NotAuthenticated: none of the issuer's audiences is named.
    """
    audiences = texts(claims.get("aud"))
    if not audiences:
        raise refused("has no valid `aud` claim")
    if issuer.audiences.isdisjoint(audiences):
        raise refused("is for another audience")


def check_times(claims: Claims, *, leeway_s: float, now: float) -> float | None:
    """When the token expires, in seconds since the epoch; none if it does not say.

    Raises:
        NotAuthenticated: it has expired, is not valid yet, or was issued in the future.
    """
    expires_at, begins_at, issued_at = (_seconds(claims, name) for name in ("exp", "nbf", "iat"))
    if expires_at is not None and expires_at + leeway_s <= now:
        raise refused("has expired")
    if begins_at is not None and begins_at - leeway_s > now:
        raise refused("is not valid yet")
    if issued_at is not None and issued_at - leeway_s > now:
        raise refused("was issued in the future")
    return expires_at


def check_is_access_token(claims: Claims, *, explicit: bool = False) -> None:
    """Refuse ID tokens, refresh tokens, logout tokens and tokens that are bound to a key.

    Besides the audience, by which they are told apart first, an ID token has a hash of what it came with, or the nonce
    of the request. An issuer that marks its access tokens (``at+jwt``, Keycloak's ``typ: Bearer``) may put a nonce
    into them too.

    Raises:
        NotAuthenticated: it is not an access token that its bearer may use.
    """
    marked = explicit
    for said in (claims[name] for name in _SAY_THE_TYPE if name in claims):
        kind = said.lower() if isinstance(said, str) else ""
        if kind not in _ACCESS | {"jwt"}:
            raise refused("is not an access token")
        marked = marked or kind in _ACCESS
    if any(name in claims for name in _OF_ID_TOKENS) or ("nonce" in claims and not marked):
        raise refused("is an ID token: send an access token")
    if "events" in claims:
        raise refused("is a message about an event, and not an access token")
    if "cnf" in claims:
        raise refused("is bound to a key of its client, and is not a bearer token (RFC 7800)")


def check_rules(issuer: TrustedIssuer, claims: Claims, *, but: AbstractSet[str] = frozenset()) -> None:
    """Refuse a token of somebody else at an issuer that serves many.

    Args:
        issuer: whose rules.
        claims: what it says.
        but: claims whose rules are about another kind of token.

    Raises:
        NotAuthenticated: a claim is missing, or matches no pattern of its rule.
    """
    for name, patterns in issuer.claim_rules.items():
        if name in but:
            continue
        value = None if name == "email" and not _email_is_verified(claims) else as_claim(claim_at(claims, name))
        if not any(claim_matches(value, pattern) for pattern in patterns):
            raise refused(f"does not have the `{name}` that is accepted of its issuer")


def identity_of(issuer: TrustedIssuer, claims: Claims, *, client: str | None = None) -> Identity:
    """Whom the claims name.

    Args:
        issuer: who says so.
        claims: what it says.
        client: whom a token without a subject was given to; it is a service, and its subject ``client:<id>``.

    Raises:
        NotAuthenticated: they name nobody (see ``check_subject``), or somebody whose subject looks like a client's.
    """
    subject = check_subject(claims.get("sub") if client is None else CLIENT_PREFIX + client)
    if client is None and issuer.introspection and subject.startswith(CLIENT_PREFIX):
        raise refused("has no valid `sub` claim")
    groups = groups_in(issuer, claims)
    everything = (groups or frozenset()) | issuer.groups
    name = claim_at(claims, issuer.username_claim)
    kind = issuer.kind
    if kind is None:
        of_nobody = client is not None or is_of_client(claims) or is_of_job(claims)
        service = of_nobody or not everything.isdisjoint(issuer.service_groups)
        kind = PrincipalKind.SERVICE if service else PrincipalKind.PERSON
    return Identity(
        issuer=issuer.issuer,
        subject=subject,
        name=shown(name) or subject,
        kind=kind,
        groups=everything,
        claims=kept_claims(claims, but={issuer.groups_claim}),
    )


def is_of_client(claims: Claims) -> bool:
    """Whether a client got the token for itself, as issuers say it: nobody sat before it, so it is a service's.

    The subject is then the client (RFC 9068 section 2.2; Okta's ``cid``); Auth0, Entra and Keycloak have marks of
    their own. Entra's ``sub`` of a person differs from application to application, and so from their ``oid``.
    """
    clients = [claims[name] for name in CLIENT_CLAIMS if isinstance(claims.get(name), str)]
    return (
        claims.get("sub") in clients
        or claims.get("gty") == "client-credentials"
        or claims.get("idtyp") == "app"
        or ("oid" in claims and claims["oid"] == claims.get("sub"))
        or claims.get("preferred_username") in [f"service-account-{client}" for client in clients]
    )


def is_of_job(claims: Claims) -> bool:
    """Whether it is a token of a CI job or a workload, by a claim that such alone have: of GitHub Actions, GitLab,
    Buildkite, Terraform Cloud and Kubernetes. Who forgot to say ``kind: service`` has made no people of them.
    """
    return any(name in claims for name in _OF_JOBS)


def groups_in(issuer: TrustedIssuer, claims: Claims) -> frozenset[str] | None:
    """The groups that the claim lists: a list of texts, or one text. None if it is not there or has another shape.

    Somebody who is in too many groups for a token has a reference in their place (Entra's ``_claim_names``): that is no
    group at all, rather than those of who asks for them.
    """
    listed = texts(claim_at(claims, issuer.groups_claim))
    if listed is None:
        return None
    return frozenset(group for group in listed if 0 < len(group) <= LONGEST_GROUP and "\0" not in group)


def scopes_in(claims: Claims) -> frozenset[Scope] | None:
    """What a token may do at most: ``countersign:promote`` in its scopes. None if none of its scopes is about us.

    Raises:
        NotAuthenticated: the scopes have another shape.
    """
    named: list[str] = []
    for claim in ("scope", "scp"):
        value = claims.get(claim)
        listed = texts(value)
        if listed is None and value is not None:
            raise refused(f"has no valid `{claim}` claim")
        named += [word for text in listed or () for word in text.split()]
    ours = {word.removeprefix(SCOPE_PREFIX) for word in named if word.startswith(SCOPE_PREFIX)}
    return frozenset(scope for scope in Scope if scope in ours) if ours else None


def credential_of(claims: Claims, *, now: float) -> Credential:
    """By what they came: a token of an issuer.

    Raises:
        NotAuthenticated: its scopes have another shape.
    """
    return Credential(
        CredentialKind.PROVIDER,
        scopes=scopes_in(claims),
        authenticated_at=authenticated_at(claims, now),
        acr=acr_of(claims),
        issued_at=_moment(claims, "iat", now),
    )


def authenticated_at(claims: Claims, now: float) -> datetime | None:
    """When they last proved who they are (``auth_time``), never later than now.

    One in the future says nothing: it would be fresh for ever.
    """
    value = claims.get("auth_time")
    is_ahead = isinstance(value, int | float) and value > now + CLOCKS_DIFFER_S
    return None if is_ahead else _moment(claims, "auth_time", now)


def acr_of(claims: Claims) -> str | None:
    """The authentication context class of the sign-in (``acr``; OpenID Connect Core section 2, RFC 9470 section 6)."""
    said = claims.get("acr")
    return said if isinstance(said, str) and 0 < len(said) <= LONGEST_ACR and said.isprintable() else None


def _moment(claims: Claims, name: str, now: float) -> datetime | None:
    value = claims.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
        return None
    return datetime.fromtimestamp(min(value, now), UTC)


def kept_claims(claims: Claims, *, but: set[str]) -> dict[str, Claim]:
    """What grants may ask for: texts, numbers, truth values and short lists of texts, by their dotted names.

    An e-mail address is kept only if the issuer says that it was verified: anybody can claim another's.
    """
    dropped = NOT_KEPT | but
    if not _email_is_verified(claims):
        dropped |= {"email"}
    kept: dict[str, Claim] = {}
    for name, value in _leaves({name: value for name, value in claims.items() if name not in dropped}):
        claim = as_claim(value)
        if claim is None or name in kept or len(name) > LONGEST_GROUP:
            continue
        if sum(len(text.encode()) for text in ((claim,) if isinstance(claim, str) else claim)) > LONGEST_CLAIM:
            continue
        kept[name] = claim
        if len(kept) == MOST_CLAIMS:
            break
    return kept


def claim_at(claims: Claims, path: str) -> object:
    """A claim by its name, or by a path into objects, as ``realm_access.roles``; None if there is none.

    A name may have dots itself (``https://example.com/groups``, ``kubernetes.io``): a claim of just that name is
    preferred, then the longest name that leads on.
    """
    if path in claims:
        return claims[path]
    end = path.rfind(".")
    while end > 0:
        inner = claims.get(path[:end])
        if isinstance(inner, Mapping) and (found := claim_at(inner, path[end + 1 :])) is not None:
            return found
        end = path.rfind(".", 0, end)
    return None


def as_claim(value: object) -> Claim | None:
    """A claim's value as patterns see it; None if it is of another shape."""
    if isinstance(value, bool | int | float):
        return json.dumps(value)
    if isinstance(value, str):
        return value
    listed = texts(value)
    return None if listed is None else tuple(listed)


def texts(value: object) -> list[str] | None:
    """A text, or a list of texts, as a list; None for anything else."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return value
    return None


def shown(name: object) -> str:
    """A name without what could make it look like another: control, formatting and direction characters."""
    if not isinstance(name, str):
        return ""
    visible = "".join(c for c in name if unicodedata.category(c) not in {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
    return visible.strip()[:LONGEST_NAME].rstrip()


def _email_is_verified(claims: Claims) -> bool:
    said = claims.get("email_verified")
    return said is True or said == "true"


def _leaves(claims: Claims, prefix: str = "", depth: int = DEEPEST_CLAIM) -> Iterator[tuple[str, object]]:
    """Every claim with its dotted name, those of the top level first."""
    objects = []
    for name, value in claims.items():
        if isinstance(value, Mapping):
            objects.append((name, value))
        else:
            yield prefix + name, value
    if depth > 1:
        for name, value in objects:
            yield from _leaves(value, f"{prefix}{name}.", depth - 1)


def _seconds(claims: Claims, name: str) -> float | None:
    value = claims.get(name)
    if value is None and name not in claims:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 2**53:
        raise refused(f"has no valid `{name}` claim")
    return float(value)
