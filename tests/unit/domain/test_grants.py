"""What grants allow: every one of them is looked at, a denial wins, and no order, spelling or pattern changes that."""

from __future__ import annotations

from fnmatch import fnmatchcase

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.errors import InvalidInput
from app.domain.grants import (
    DEFAULT_WORKSPACE,
    EVERYBODY,
    EVERYTHING,
    LONGEST_PATTERN,
    MOST_STARS,
    OWNER_ROLE,
    SERVER,
    Access,
    Effect,
    Grant,
    Reach,
    Resource,
    ResourceKind,
    Subject,
    applying_to,
    fold,
    grant_document,
    grant_from_document,
    grants_of_roles,
    model,
)
from app.domain.identity import Identity
from app.domain.roles import BOUND, DENIED_WITH, READS, ROLE_PERMISSIONS, Permission, Role

EVERYONE = Subject(group=EVERYBODY)
ME = "https://issuer.example|me"


def allow(role: Role = Role.CONTRIBUTOR, **on: str) -> Grant:
    return Grant(f"allow-{role}", role, EVERYONE, Reach(**on))


def deny(role: Role = Role.VIEWER, **on: str) -> Grant:
    return Grant(f"deny-{role}", role, EVERYONE, Reach(**on), Effect.DENY)


def experiment(name: str, *, owner: str | None = None) -> Resource:
    return Resource(ResourceKind.EXPERIMENT, name, owner=owner)


def matches(name: str, pattern: str | None, *, is_denial: bool) -> bool:
    if pattern is None or fnmatchcase(name, pattern):
        return True
    return is_denial and fnmatchcase(fold(name), fold(pattern))


def covers(grant: Grant, permission: Permission, resource: Resource) -> bool:
    on, denial = grant.on, grant.effect is Effect.DENY
    if permission not in (DENIED_WITH if denial else ROLE_PERMISSIONS)[grant.role]:
        return False
    if on == EVERYTHING or permission not in BOUND:
        return on == EVERYTHING
    if resource.kind is ResourceKind.SERVER:
        return denial
    is_model = resource.kind is ResourceKind.MODEL
    if ((on.model or on.alias) and not is_model) or (on.experiment and is_model):
        return False
    if on.alias is not None and resource.alias is None and (denial or permission not in READS):
        return False
    return (
        matches(resource.name, on.model, is_denial=denial)
        and matches(resource.name, on.experiment, is_denial=denial)
        and matches(resource.workspace, on.workspace, is_denial=denial)
        and (resource.alias is None or matches(resource.alias, on.alias, is_denial=denial))
    )


def naive(grants: list[Grant], permission: Permission, resource: Resource, *, owner_id: str | None = None) -> bool:
    """The rule as one would say it, one grant after the other: what ``Access`` must come to, however it is arranged."""
    speaking = [grant for grant in grants if covers(grant, permission, resource)]
    allowing = [grant.on for grant in grants if grant.effect is Effect.ALLOW and grant.speaks_of(permission)]
    if resource.workspace != DEFAULT_WORKSPACE and not any(
        on == EVERYTHING or (on.workspace and fnmatchcase(resource.workspace, on.workspace)) for on in allowing
    ):
        return False  # no grant opens the workspace, and nobody owns anything where they are not
    if speaking:
        return all(grant.effect is Effect.ALLOW for grant in speaking)
    writing = [grant for grant in grants if Permission.TRACKING_WRITE in ROLE_PERMISSIONS[grant.role]]
    contributes = any(grant.effect is Effect.ALLOW for grant in writing)
    owns = owner_id is not None and resource.owner == owner_id and resource.kind is not ResourceKind.SERVER
    return owns and contributes and permission in ROLE_PERMISSIONS[OWNER_ROLE]


_letters = st.text(alphabet="abAB\uff41-", min_size=1, max_size=4)
_patterns = st.text(alphabet="abAB\uff41-*?[]!", min_size=1, max_size=6) | _letters
_maybe = st.none() | _patterns
_reaches = (
    st.just(EVERYTHING)
    | st.builds(Reach, model=_maybe, alias=_maybe, workspace=_maybe)
    | st.builds(Reach, experiment=_patterns, workspace=_maybe)
)
_grants = st.lists(
    st.builds(Grant, st.just("g"), st.sampled_from(Role), st.just(EVERYONE), _reaches, st.sampled_from(Effect)),
    max_size=6,
)
_workspaces = st.just(DEFAULT_WORKSPACE) | _letters
_owners = st.sampled_from([None, ME, "https://issuer.example|other"])
_resources = (
    st.just(SERVER)
    | st.builds(Resource, st.just(ResourceKind.MODEL), _letters, st.none() | _letters, _workspaces, _owners)
    | st.builds(Resource, st.just(ResourceKind.EXPERIMENT), _letters, st.none(), _workspaces, _owners)
)


@given(_grants, st.sampled_from(Permission), _resources)
def test_access_is_what_looking_at_every_grant_comes_to(
    grants: list[Grant], permission: Permission, resource: Resource
) -> None:
    # A server-wide role on a part of the server is no grant that anybody can write.
    access = Access(grants, owner_id=ME)
    assert access.may(permission, resource) == naive(grants, permission, resource, owner_id=ME)


@given(_grants, st.sampled_from(Permission), _resources, st.randoms())
def test_order_never_matters(grants: list[Grant], permission: Permission, resource: Resource, random: object) -> None:
    shuffled = list(grants)
    random.shuffle(shuffled)  # type: ignore[attr-defined]  # a random.Random
    assert Access(grants).may(permission, resource) == Access(shuffled).may(permission, resource)


@given(_grants, st.sampled_from(Permission), _resources, _reaches)
def test_a_further_denial_never_gives_anything(
    grants: list[Grant], permission: Permission, resource: Resource, on: Reach
) -> None:
    for role in Role:
        denied = Access([*grants, Grant("d", role, EVERYONE, on, Effect.DENY)], owner_id=ME)
        assert denied.may(permission, resource) <= Access(grants, owner_id=ME).may(permission, resource)
        assert denied.somewhere <= Access(grants, owner_id=ME).somewhere


@given(_grants, st.sampled_from(Permission), _resources)
def test_what_may_be_done_to_something_may_be_done_somewhere(
    grants: list[Grant], permission: Permission, resource: Resource
) -> None:
    access = Access(grants, owner_id=ME)
    assert not access.may(permission, resource) or permission in access.somewhere
    assert access.may(permission, SERVER) == (permission in access.everywhere)


@given(_grants, _resources)
def test_a_role_that_is_held_is_given_and_nothing_it_is_for_is_denied(grants: list[Grant], resource: Resource) -> None:
    access = Access(grants)
    for role in access.roles_on(resource):
        meant = ROLE_PERMISSIONS[role] & DENIED_WITH[role]
        assert any(grant.role is role and grant.effect is Effect.ALLOW for grant in grants)
        assert any(access.may(permission, resource) for permission in meant)
        assert not any(
            access.denying(permission, resource) and access.giving(permission, resource) for permission in meant
        )


# What is on less than everything.


@pytest.mark.parametrize("role", sorted(Role))
def test_a_grant_on_less_than_everything_never_gives_what_is_about_the_whole_server(role: Role) -> None:
    for on in ({"model": "*"}, {"experiment": "*"}, {"workspace": "*"}, {"alias": "*"}):
        access = Access([allow(role, **on)])
        assert access.somewhere <= BOUND
        assert not access.everywhere
        for permission in set(Permission) - BOUND:
            assert not access.may(permission, SERVER)
            assert not access.may(permission, model("m", "production"))


def test_what_is_denied_on_something_is_not_held_on_everything() -> None:
    access = Access([allow(), deny(model="secret")])
    assert access.may(Permission.REGISTRY_READ, model("m"))
    assert not access.may(Permission.REGISTRY_READ, model("secret"))
    assert not access.may(Permission.REGISTRY_READ, SERVER)
    assert Permission.REGISTRY_READ in access.somewhere


def test_a_model_grant_says_nothing_of_experiments_and_the_other_way_round() -> None:
    assert not Access([allow(model="*")]).may(Permission.TRACKING_READ, experiment("m"))
    assert not Access([allow(experiment="*")]).may(Permission.REGISTRY_READ, model("m"))


def test_a_workspace_grant_is_on_that_workspace_alone() -> None:
    access = Access([allow(workspace="team-a"), allow(model="shared", workspace="team-b")])
    assert access.may(Permission.REGISTRY_WRITE, model("m", workspace="team-a"))
    assert not access.may(Permission.REGISTRY_WRITE, model("m"))
    assert not access.may(Permission.REGISTRY_WRITE, model("m", workspace="team-b"))
    assert access.may(Permission.REGISTRY_WRITE, model("shared", workspace="team-b"))
    assert not access.may(Permission.REGISTRY_WRITE, SERVER)


# Aliases.


@pytest.mark.parametrize("on", [{"model": "*"}, {"alias": "production"}, {"model": "m", "alias": "production"}])
def test_a_grant_that_names_no_workspace_opens_none_but_the_default_one(on: dict[str, str]) -> None:
    decide = Permission.PROMOTIONS_DECIDE
    access = Access([allow(Role.APPROVER, **on)])
    assert access.may(decide, model("m", "production"))
    assert not access.may(decide, model("m", "production", workspace="team-a"))
    assert not access.holds(Role.APPROVER, model("m", "production", workspace="team-a"))
    assert access.giving(decide, model("m", "production", workspace="team-a")) == ()
    opened = Access([allow(Role.APPROVER, **on), allow(Role.APPROVER, workspace="team-*", model="other")])
    assert opened.may(decide, model("m", "production", workspace="team-a"))
    assert Access([allow(Role.APPROVER)]).may(decide, model("m", "production", workspace="team-a"))


def test_an_approver_of_one_alias_decides_there_and_reads_the_model() -> None:
    access = Access([allow(Role.APPROVER, model="fraud-*", alias="production")])
    assert access.may(Permission.PROMOTIONS_DECIDE, model("fraud-a", "production"))
    assert not access.may(Permission.PROMOTIONS_DECIDE, model("fraud-a", "staging"))
    assert not access.may(Permission.PROMOTIONS_DECIDE, model("fraud-a"))
    assert not access.may(Permission.PROMOTIONS_DECIDE, model("churn", "production"))
    assert access.may(Permission.REGISTRY_READ, model("fraud-a"))
    assert not access.may(Permission.REGISTRY_READ, model("churn"))
    assert access.roles_on(model("fraud-a", "production")) == {Role.APPROVER}
    assert not access.roles_on(model("fraud-a", "staging"))


def test_who_serves_one_alias_does_not_learn_where_the_bytes_of_other_versions_are() -> None:
    access = Access([allow(Role.SERVING, model="fraud", alias="production")])
    assert access.may(Permission.MODELS_RESOLVE, model("fraud", "production"))
    assert not access.may(Permission.MODELS_RESOLVE, model("fraud"))
    assert not access.may(Permission.MODELS_RESOLVE, model("fraud", "staging"))


def test_an_alias_grant_writes_nothing_on_the_model_as_a_whole() -> None:
    access = Access([allow(Role.REQUESTER, model="fraud", alias="production")])
    assert not access.may(Permission.REGISTRY_WRITE, model("fraud"))
    assert not access.may(Permission.REGISTRY_DELETE, model("fraud"))
    assert access.may(Permission.PROMOTIONS_REQUEST, model("fraud", "production"))


def test_a_denial_on_an_alias_is_on_that_alias_alone() -> None:
    access = Access([allow(Role.APPROVER), deny(Role.APPROVER, alias="production")])
    assert not access.may(Permission.PROMOTIONS_DECIDE, model("m", "production"))
    assert access.may(Permission.PROMOTIONS_DECIDE, model("m", "staging"))
    assert access.may(Permission.PROMOTIONS_READ, model("m", "production"))


def test_what_is_denied_on_an_alias_leaves_the_model_to_be_read() -> None:
    access = Access([allow(Role.VIEWER), deny(alias="production")])
    assert access.may(Permission.REGISTRY_READ, model("m"))
    assert not access.may(Permission.PROMOTIONS_READ, model("m", "production"))


# Denials.


@pytest.mark.parametrize("name", ["Secret", "SECRET", "ｓｅｃｒｅｔ", " secret", "secret\n", "ſecret"])
def test_look_alikes_of_what_is_denied_are_denied(name: str) -> None:
    for denied in (deny(model="secret"), deny(model="sec*"), deny(model="?ecret"), deny(model="*ret")):
        assert not Access([allow(), denied]).may(Permission.REGISTRY_READ, model(name))


@pytest.mark.parametrize("name", ["Fraud", "ｆｒａｕｄ", "fraud ", "fraud\n", "xfraud"])
def test_look_alikes_of_what_is_allowed_are_not_allowed(name: str) -> None:
    for allowed in (allow(model="fraud"), allow(model="[f]raud"), allow(model="frau[d]")):
        assert not Access([allowed]).may(Permission.REGISTRY_READ, model(name))


def test_each_denial_takes_away_what_the_role_is_for_and_what_rests_on_it() -> None:
    everything = [allow(role) for role in Role]
    lost = {role: {p for p in Permission if not Access([*everything, deny(role)]).may(p, SERVER)} for role in Role}
    assert lost[Role.VIEWER] == set(Permission)
    assert lost[Role.REQUESTER] == {Permission.PROMOTIONS_REQUEST, Permission.CHECKS_POST}
    assert lost[Role.CONTRIBUTOR] > lost[Role.REQUESTER]
    assert lost[Role.APPROVER] == {Permission.PROMOTIONS_DECIDE, Permission.PROMOTIONS_ROLLBACK}
    assert Permission.TRACKING_WRITE not in lost[Role.ADMINISTRATOR]
    assert Permission.GRANTS_ADMINISTER in lost[Role.ADMINISTRATOR]


def test_a_denial_wins_over_owning() -> None:
    mine = Resource(ResourceKind.MODEL, "m", owner=ME)
    writer = allow(model="other")
    assert Access([writer], owner_id=ME).may(Permission.REGISTRY_DELETE, mine)
    assert not Access([writer, deny(model="m")], owner_id=ME).may(Permission.REGISTRY_READ, mine)


# Owners.


def test_creators_are_contributors_of_what_they_created_and_no_more() -> None:
    access = Access([allow(Role.CONTRIBUTOR, model="other")], owner_id=ME)
    mine = Resource(ResourceKind.MODEL, "m", "production", owner=ME)
    assert {p for p in Permission if access.may(p, mine)} == ROLE_PERMISSIONS[Role.CONTRIBUTOR]
    theirs = Resource(ResourceKind.MODEL, "m", "production", owner="https://issuer.example|other")
    assert not any(access.may(p, theirs) for p in Permission)
    assert Role.APPROVER not in access.roles_on(mine)


def test_who_contributes_nowhere_any_more_owns_nothing() -> None:
    mine = Resource(ResourceKind.MODEL, "m", owner=ME)
    for grants in ([], [allow(Role.VIEWER)], [allow(Role.APPROVER)]):
        assert not Access(grants, owner_id=ME).owns(mine)


# Subjects.


def identity(subject: str = "me", *, groups: set[str] | None = None, **claims: str | tuple[str, ...]) -> Identity:
    return Identity("https://issuer.example", subject, subject, groups=frozenset(groups or ()), claims=claims)


@pytest.mark.parametrize(
    ("subject", "who"),
    [
        (Subject(person=ME), identity("Me")),
        (Subject(person=ME), Identity("https://issuer.example/", "me", "me")),
        (Subject(person=ME), Identity("https://other.example", "me", "me")),
        (Subject(group="ml-leads"), identity(groups={"ML-Leads"})),
        (Subject(group="ml-leads"), identity(groups={"ml-leads "})),
        (Subject(group="ml-leads"), identity(groups={"ｍl-leads"})),
        (Subject(group="ml-*"), identity(groups={"ml-leads"})),
        (Subject(group="ml-leads"), identity("ml-leads")),
        (Subject(group="ml-leads"), identity(groups={"*"})),
        (Subject(issuer="https://ci.example", claims=(("repository", "acme/*"),)), identity(repository="acme/iris")),
        (Subject(issuer="https://issuer.example", claims=(("repository", "acme/*"),)), identity(repository="evil/x")),
        (Subject(issuer="https://issuer.example", claims=(("repository", "acme/*"),)), identity(repository="Acme/x")),
        (Subject(issuer="https://issuer.example", claims=(("repository", "acme/*"),)), identity(other="acme/iris")),
        (Subject(issuer="https://issuer.example", claims=(("repository", "*"),)), identity()),
        (Subject(issuer="https://issuer.example", claims=(("repository", "*"),)), identity(repository=())),
        (
            Subject(issuer="https://issuer.example", claims=(("ref", "refs/heads/main"), ("repository", "acme/*"))),
            identity(repository="acme/iris", ref="refs/heads/other"),
        ),
    ],
)
def test_a_subject_does_not_include_look_alikes(subject: Subject, who: Identity) -> None:
    assert not subject.includes(who)
    assert applying_to(who, [Grant("g", Role.VIEWER, subject)]) == ()


def test_subjects_include_whom_they_name() -> None:
    who = identity(groups={"ml-leads"}, repository="acme/iris", roles=("a", "b"))
    for subject in (
        Subject(person=ME),
        Subject(group="ml-leads"),
        Subject(group=EVERYBODY),
        Subject(issuer="https://issuer.example", claims=(("repository", "acme/*"), ("roles", "b"))),
    ):
        assert subject.includes(who)


def test_the_operators_grants_are_on_everything() -> None:
    [admin, viewer] = grants_of_roles({Role.ADMINISTRATOR: ["ops"], Role.VIEWER: [EVERYBODY]})
    assert admin.on.is_everything
    assert admin.subject == Subject(group="ops")
    assert viewer.subject.is_everybody
    with pytest.raises(InvalidInput):
        grant_from_document(grant_document(admin))  # nobody can write one of the same name


# Documents.


_texts = st.text(alphabet="abc-*?[]:/ é", min_size=1, max_size=12).filter(lambda text: text.strip() != "")
_few_stars = _texts.filter(lambda text: text.count("*") <= MOST_STARS)
_subjects = (
    st.builds(lambda text: Subject(person=f"https://i|{text}"), _texts)
    | st.builds(lambda text: Subject(group=text.replace("*", "+")), _texts)
    | st.just(EVERYONE)
    | st.builds(
        lambda issuer, claims: Subject(issuer=issuer, claims=tuple(sorted(claims.items()))),
        _texts,
        st.dictionaries(st.text(alphabet="abc", min_size=1), _few_stars, min_size=1, max_size=3),
    )
)
_written = st.none() | _few_stars
_on = st.builds(Reach, model=_written, alias=_written, workspace=_written) | st.builds(
    Reach, experiment=_few_stars, workspace=_written
)


@given(st.sampled_from(Role), _subjects, _on, st.sampled_from(Effect))
def test_a_document_reads_back_to_the_same_grant(role: Role, subject: Subject, on: Reach, effect: Effect) -> None:
    grant = Grant("some.grant-1", role, subject, on, effect)
    if role in {Role.AUDITOR, Role.ADMINISTRATOR} and not on.is_everything:
        with pytest.raises(InvalidInput) as refused:
            grant_from_document(grant_document(grant))
        assert refused.value.details["field"] == "on"
    else:
        assert grant_from_document(grant_document(grant)) == grant


GOOD: dict[str, object] = {
    "kind": "Grant",
    "name": "leads",
    "role": "approver",
    "subject": {"group": "ml-leads"},
    "on": {"model": "fraud-*"},
}


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"name": ""}, "name"),
        ({"name": None}, "name"),
        ({"name": ["leads"]}, "name"),
        ({"name": "Leads"}, "name"),
        ({"name": "leads\n"}, "name"),
        ({"name": "settings:administrator:x"}, "name"),
        ({"name": "x" * 129}, "name"),
        ({"role": "king"}, "role"),
        ({"role": ["approver"]}, "role"),
        ({"role": None}, "role"),
        ({"role": True}, "role"),
        ({"effect": "allow "}, "effect"),
        ({"effect": None}, "effect"),
        ({"effect": False}, "effect"),
        ({"subject": None}, "subject"),
        ({"subject": {}}, "subject"),
        ({"subject": "ml-leads"}, "subject"),
        ({"subject": ["ml-leads"]}, "subject"),
        ({"subject": {"group": "a", "person": ME}}, "subject"),
        ({"subject": {"group": ["a"]}}, "subject.group"),
        ({"subject": {"group": 7}}, "subject.group"),
        ({"subject": {"group": " "}}, "subject.group"),
        ({"subject": {"group": "ml-*"}}, "subject.group"),
        ({"subject": {"group": "a\x00"}}, "subject.group"),
        ({"subject": {"group": "a\ud800"}}, "subject.group"),
        ({"subject": {"group": "a\u200b"}}, "subject.group"),
        ({"subject": {"groups": "a"}}, "subject.groups"),
        ({"subject": {7: "a", "x": "b"}}, "subject.7"),
        ({"subject": {"person": "alice"}}, "subject.person"),
        ({"subject": {"person": "i|" + "x" * 2048}}, "subject.person"),
        ({"subject": {"group": "a", "claims": {"a": "b"}}}, "subject.claims"),
        ({"subject": {"group": "a", "claims": {}}}, "subject.claims"),
        ({"subject": {"issuer": "https://ci"}}, "subject.claims"),
        ({"subject": {"issuer": "https://ci", "claims": {}}}, "subject.claims"),
        ({"subject": {"issuer": "https://ci", "claims": ["a"]}}, "subject.claims"),
        ({"subject": {"issuer": "https://ci", "claims": {True: "a"}}}, "subject.claims"),
        ({"subject": {"issuer": "https://ci", "claims": {"é": "a"}}}, "subject.claims"),
        ({"subject": {"issuer": "https://ci", "claims": {"a": True}}}, "subject.claims.a"),
        ({"subject": {"issuer": "https://ci", "claims": {"a": ["x"]}}}, "subject.claims.a"),
        ({"subject": {"issuer": "https://ci", "claims": {str(n): "x" for n in range(17)}}}, "subject.claims"),
        ({"on": "fraud-*"}, "on"),
        ({"on": []}, "on"),
        ({"on": {"models": "fraud-*"}}, "on.models"),
        ({"on": {"model": ""}}, "on.model"),
        ({"on": {"model": 7}}, "on.model"),
        ({"on": {"model": "x" * (LONGEST_PATTERN + 1)}}, "on.model"),
        ({"on": {"model": "*a" * (MOST_STARS + 1)}}, "on.model"),
        ({"on": {"model": "a", "experiment": "b"}}, "on"),
        ({"on": {"alias": "a", "experiment": "b"}}, "on"),
        ({"role": "administrator"}, "on"),
        ({"role": "auditor", "effect": "deny"}, "on"),
        ({"rôle": "viewer"}, "rôle"),
        ({1: "a", "b": 2}, "1"),
    ],
)
def test_a_wrong_grant_is_refused_with_the_name_of_the_field(change: dict[object, object], field: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        grant_from_document({**GOOD, **change})  # type: ignore[arg-type]  # keys that YAML may have
    assert refused.value.details["field"] == field


@pytest.mark.parametrize("on", [None, {}, {"model": None}])
def test_on_nothing_is_on_everything(on: object) -> None:
    assert grant_from_document({**GOOD, "on": on}).on.is_everything
    assert str(grant_from_document({**GOOD, "on": on})) == (
        "grant leads gives group ml-leads the role approver on everything"
    )


# Many, and hostile, patterns.


def test_neither_ten_thousand_grants_nor_hostile_patterns_explode() -> None:
    """No measure of speed: this would not end if anything grew exponentially, or with the product."""
    hostile = ("*a" * MOST_STARS) + "[!a-z" + "?" * 200
    grants = [allow(model=f"team-{n}-*") for n in range(10_000)]
    grants += [allow(model=hostile), deny(model=hostile), deny(model="a" * 100 + "*" * MOST_STARS + "b")]
    access = Access(grants)
    for n in range(1_000):
        assert access.may(Permission.REGISTRY_READ, model(f"team-{n}-x"))
        assert not access.may(Permission.REGISTRY_READ, model("a" * 256))


@pytest.mark.parametrize(
    ("pattern", "name", "matches"),
    [
        ("a[b", "a[b", True),
        ("a]b", "a]b", True),
        ("[]]x", "]x", True),
        ("[!a]", "b", True),
        ("[!a]", "a", False),
        ("a?c", "abc", True),
        ("a?c", "ac", False),
        ("*", "", True),
        ("a*", "a", True),
        ("*[ab]c", "xbc", True),
        ("[ab]", "[ab]", False),
        ("a.c", "abc", False),
        ("a\\*", "a*", False),
    ],
)
def test_patterns_are_those_of_a_shell(pattern: str, name: str, matches: bool) -> None:
    assert Access([allow(model=pattern)]).may(Permission.REGISTRY_READ, model(name)) is matches
