"""Whom we believe, and what their words mean: trusted issuers of tokens, and providers where people sign in."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from app.domain.errors import InvalidConfiguration
from app.domain.fields import Fields, ReadSecret
from app.domain.identity import PrincipalKind

ASYMMETRIC_ALGORITHMS = frozenset(
    {"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA", "Ed25519"}
)
"""Signatures that whoever verifies cannot make (RFC 8725 section 3.1)."""

DEFAULT_ALGORITHMS = ("RS256", "ES256")
DEFAULT_SCOPES = ("openid", "profile", "email", "groups")
DEFAULT_GROUPS_CLAIM = "groups"
DEFAULT_USERNAME_CLAIM = "preferred_username"
DEFAULT_LEEWAY_S = 30
DEFAULT_REMEMBER_S = 30


@dataclass(frozen=True, slots=True)
class SignIn:
    """Our client at a provider: people may sign in there in a browser (OpenID Connect Core section 3.1)."""

    client_id: str
    client_secret: str | None = field(default=None, repr=False)
    """None for a public client."""
    scopes: tuple[str, ...] = DEFAULT_SCOPES
    title: str = ""
    """On the sign-in page; the issuer's host if empty."""


@dataclass(frozen=True, slots=True)
class Introspection:
    """Our client at the issuer's introspection endpoint, for its opaque tokens (RFC 7662)."""

    client_id: str
    client_secret: str = field(repr=False)
    endpoint: str | None = None
    """None: as the issuer's metadata says."""
    remember_s: int = DEFAULT_REMEMBER_S
    """Seconds that an answer is believed; a token that the issuer revokes works that much longer."""


@dataclass(frozen=True, slots=True)
class TrustedIssuer:
    """What is accepted of one issuer, and what its claims mean.

    ``name`` is a short name of ours, in addresses (``/auth/callback/<name>``) and logs.
    """

    name: str
    issuer: str
    audiences: frozenset[str]
    algorithms: tuple[str, ...] = DEFAULT_ALGORITHMS
    groups_claim: str = DEFAULT_GROUPS_CLAIM
    username_claim: str = DEFAULT_USERNAME_CLAIM
    leeway_s: int = DEFAULT_LEEWAY_S
    kind: PrincipalKind | None = None
    """None: a service if in one of ``service_groups``, or if a client got the token for itself; else a person."""
    service_groups: frozenset[str] = frozenset()
    groups: frozenset[str] = frozenset()
    """What everybody of this issuer is in, beside the groups of the claim."""
    claim_rules: Mapping[str, tuple[str, ...]] = field(default_factory=dict, hash=False)
    """Claim to patterns of which one must match; a token that breaks a rule is refused."""
    token_type: str | None = None
    """The ``typ`` that a token's header must have, as ``at+jwt`` (RFC 9068); None: any that is an access token's."""
    accepts_tokens: bool = True
    """Whether its tokens are accepted as bearer tokens; else people only sign in there."""
    jwks_uri: str | None = None
    jwks_file: str | None = None
    """Keys of an issuer whose metadata cannot be reached, as of a Kubernetes cluster."""
    jwks_token_file: str | None = None
    """What is presented at ``jwks_uri``, as a pod's own token is to its cluster."""
    ca_file: str | None = None
    """The certificate authority of the issuer's own servers, if not a public one."""
    sign_in: SignIn | None = None
    introspection: Introspection | None = None


_WHOLE = r"[^*?\[]+"
"""A pattern without wildcards."""
_FIRST_PART = r"[^*?\[/]+/.*"
"""A pattern whose text before the first slash has no wildcard."""


@dataclass(frozen=True, slots=True)
class SharedIssuer:
    """A public issuer that signs tokens for whoever asks: one of its claims must be held to somebody."""

    holders: Mapping[str, str]
    """Claim to the regular expression of a pattern that holds it to one customer."""
    example: str


SHARED_ISSUERS: Mapping[str, SharedIssuer] = {
    "https://token.actions.githubusercontent.com": SharedIssuer(
        {
            "repository_owner": _WHOLE,
            "repository_owner_id": _WHOLE,
            "repository": f"{_WHOLE}|{_FIRST_PART}",
            "repository_id": _WHOLE,
            "enterprise": _WHOLE,
            "enterprise_id": _WHOLE,
            "sub": rf"{_WHOLE}|repo:{_FIRST_PART}",
        },
        "repository_owner: [your-organisation]",
    ),
    "https://gitlab.com": SharedIssuer(
        {
            "namespace_path": f"{_WHOLE}|{_FIRST_PART}",
            "namespace_id": _WHOLE,
            "project_path": f"{_WHOLE}|{_FIRST_PART}",
            "project_id": _WHOLE,
            "groups_direct": f"{_WHOLE}|{_FIRST_PART}",
            "sub": rf"{_WHOLE}|project_path:{_FIRST_PART}",
        },
        "namespace_path: [your-group, your-group/*]",
    ),
    "https://accounts.google.com": SharedIssuer(
        {"hd": _WHOLE, "sub": _WHOLE, "email": _WHOLE}, "hd: [your-domain.example]"
    ),
    "https://login.microsoftonline.com/9188040d-6c67-4c5b-b112-36a304b66dad/v2.0": SharedIssuer(
        {"sub": _WHOLE, "oid": _WHOLE}, "oid: [the object ids of your people]"
    ),
    "https://app.terraform.io": SharedIssuer(
        {"terraform_organization_name": _WHOLE, "terraform_organization_id": _WHOLE},
        "terraform_organization_name: [your-organisation]",
    ),
    "https://agent.buildkite.com": SharedIssuer(
        {"organization_slug": _WHOLE, "organization_id": _WHOLE}, "organization_slug: [your-organisation]"
    ),
}
_MICROSOFT_FOR_ALL = re.compile(r"https://login\.microsoftonline\.com/(common|organizations|consumers)(/.*)?")


def check_issuers(issuers: Sequence[TrustedIssuer]) -> None:
    """Refuse issuers that cannot be told apart, or that would let in whoever asks.

    Raises:
        InvalidConfiguration: a line for each problem, naming the issuer and what to change.
    """
    problems = [problem for issuer in issuers for problem in _problems_of(issuer)]
    for what in ("name", "issuer"):
        values = [str(getattr(issuer, what)) for issuer in issuers]
        twice = sorted({value for value in values if values.count(value) > 1})
        problems += [f"issuers: two have the {what} {value}; expected each once" for value in twice]
    if problems:
        raise InvalidConfiguration("\n".join(problems))


def _problems_of(issuer: TrustedIssuer) -> Iterable[str]:
    where = f"issuer {issuer.name}"
    if _MICROSOFT_FOR_ALL.fullmatch(issuer.issuer):
        yield (
            f"{where}: tokens name the tenant and never this address; expected "
            "https://login.microsoftonline.com/<tenant id>/v2.0"
        )
    shared = SHARED_ISSUERS.get(issuer.issuer.rstrip("/"))
    if shared and not any(_holds(shared, issuer, claim) for claim in shared.holders):
        yield (
            f"{where}: {issuer.issuer} signs tokens for anybody in the world; expected `claims` that hold one of "
            f"{', '.join(shared.holders)} to you, as `claims: {{{shared.example}}}`"
        )
    if issuer.accepts_tokens and not issuer.audiences:
        yield f"{where}: audiences: expected at least one; or `acceptsTokens: false` if people only sign in there"
    sign_in = issuer.sign_in
    if issuer.accepts_tokens and sign_in and sign_in.client_id in issuer.audiences and issuer.token_type != "at+jwt":  # noqa: S105  # a type
        yield (
            f"{where}: the audience {sign_in.client_id} is the sign-in client itself, whose ID tokens would pass for "
            "access tokens; expected an audience of the API alone, or `tokenType: at+jwt` if the issuer marks its "
            "access tokens (RFC 9068)"
        )


def _holds(shared: SharedIssuer, issuer: TrustedIssuer, claim: str) -> bool:
    patterns = issuer.claim_rules.get(claim, ())
    return bool(patterns) and all(re.fullmatch(shared.holders[claim], pattern) for pattern in patterns)


_NAME = re.compile(r"[a-z0-9-]{1,32}")


def read_issuers(document: object, read_secret: ReadSecret) -> tuple[TrustedIssuer, ...]:
    """The issuers of the identity file: its list ``issuers``, in order.

    Whether they go together, and with what else is configured, says ``check_issuers``.

    Raises:
        InvalidConfiguration: a line for each problem, with its path, as ``issuers[1].audiences``.
    """
    problems: list[str] = []
    if document is None:
        return ()
    if not isinstance(document, Mapping):
        raise InvalidConfiguration("identity file: expected an object with `issuers` and `clients`")
    problems += [
        f"{name}: unknown field; expected issuers or clients" for name in document if name not in {"issuers", "clients"}
    ]
    listed = document.get("issuers")
    if not isinstance(listed, list | None):
        problems.append("issuers: expected a list")
        listed = None
    issuers = [_issuer(Fields(item, f"issuers[{i}]", problems, read_secret)) for i, item in enumerate(listed or ())]
    if problems:
        raise InvalidConfiguration("\n".join(problems))
    check_issuers(issuers)
    return tuple(issuers)


def _issuer(fields: Fields) -> TrustedIssuer:
    kind = fields.text("kind", among=tuple(PrincipalKind))
    sign_in, introspection = fields.inner("signIn"), fields.inner("introspection")
    name = fields.text("name", needed=True)
    if name and not _NAME.fullmatch(name):
        fields.expected("name", "1 to 32 of a-z, 0-9 and -")
    algorithms = fields.texts("algorithms") or DEFAULT_ALGORITHMS
    if unknown := sorted(set(algorithms) - ASYMMETRIC_ALGORITHMS):
        fields.expected(
            "algorithms", f"asymmetric ones, not {', '.join(unknown)}: {', '.join(sorted(ASYMMETRIC_ALGORITHMS))}"
        )
    if fields.has("jwksUri") and fields.has("jwksFile"):
        fields.expected("jwksFile", "only one of jwksUri and jwksFile")
    if fields.has("jwksTokenFile") and not fields.has("jwksUri"):
        # Never for an address that the issuer's metadata names: it would get the token of our own.
        fields.expected("jwksTokenFile", "only beside jwksUri")
    issuer = TrustedIssuer(
        name=name,
        issuer=fields.url("issuer", needed=True),
        audiences=frozenset(fields.texts("audiences")),
        algorithms=algorithms,
        groups_claim=fields.text("groupsClaim") or DEFAULT_GROUPS_CLAIM,
        username_claim=fields.text("usernameClaim") or DEFAULT_USERNAME_CLAIM,
        leeway_s=fields.whole("leewaySeconds", DEFAULT_LEEWAY_S, most=300),
        kind=PrincipalKind(kind) if kind else None,
        service_groups=frozenset(fields.texts("serviceGroups")),
        groups=frozenset(fields.texts("groups")),
        claim_rules=fields.patterns("claims"),
        token_type=fields.text("tokenType", among=("at+jwt", "JWT")) or None,
        accepts_tokens=fields.boolean("acceptsTokens", default=True),
        jwks_uri=fields.url("jwksUri") or None,
        jwks_file=fields.text("jwksFile") or None,
        jwks_token_file=fields.text("jwksTokenFile") or None,
        ca_file=fields.text("caFile") or None,
        sign_in=_sign_in(sign_in) if sign_in else None,
        introspection=_introspection(introspection) if introspection else None,
    )
    fields.nothing_else()
    return issuer


def _sign_in(fields: Fields) -> SignIn:
    scopes = fields.texts("scopes") or DEFAULT_SCOPES
    if "openid" not in scopes:
        fields.expected("scopes", "`openid` among them")
    sign_in = SignIn(
        client_id=fields.text("clientId", needed=True),
        client_secret=fields.secret("clientSecret"),
        scopes=scopes,
        title=fields.text("title"),
    )
    fields.nothing_else()
    return sign_in


def _introspection(fields: Fields) -> Introspection:
    introspection = Introspection(
        client_id=fields.text("clientId", needed=True),
        client_secret=fields.secret("clientSecret", needed=True) or "",
        endpoint=fields.url("endpoint") or None,
        remember_s=fields.whole("rememberSeconds", DEFAULT_REMEMBER_S, most=3600),
    )
    fields.nothing_else()
    return introspection
