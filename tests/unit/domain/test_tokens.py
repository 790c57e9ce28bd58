"""Tokens of ours: their form, their checksum, what may be in one, and the codes that people type."""

from __future__ import annotations

import re
import zlib
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.errors import (
    CountersignError,
    Forbidden,
    InsufficientScope,
    InvalidInput,
    NotAuthenticated,
    OAuthRefused,
)
from app.domain.identity import Credential, CredentialKind, PrincipalKind, Scope
from app.domain.roles import SCOPE_PERMISSIONS, UNATTENDED, Permission
from app.domain.tokens import (
    ATTENDED,
    BEARER,
    SCOPE_MEANINGS,
    USER_CODE_LETTERS,
    Prefix,
    Wanted,
    check_bearer,
    exchanged_scopes,
    is_ours,
    new_token,
    new_user_code,
    personal_token,
    prefix_of,
    read_user_code,
    scope_text,
    scopes_of,
    shown_user_code,
)

SESSION = Credential(CredentialKind.SESSION)


def asked(**changed: object) -> Wanted:
    values: dict[str, object] = {
        "name": "nightly",
        "scopes": [Scope.TRACK],
        "days": 1,
        "by": SESSION,
        "kind": PrincipalKind.PERSON,
        "longest_days": 90,
        **changed,
    }
    return personal_token(**values)  # type: ignore[arg-type]


@pytest.mark.parametrize("prefix", Prefix)
def test_a_token_tells_what_it_is_for(prefix: Prefix) -> None:
    token = new_token(prefix)
    assert re.fullmatch(r"cs_(pat|log|exc|ref|dev|cod)_[0-9A-Za-z]{49}", token)
    assert prefix_of(token) is prefix
    assert is_ours(token)
    assert len({new_token(prefix) for _ in range(100)}) == 100


def test_the_checksum_is_crc32_in_base_62_for_scanners_to_check() -> None:
    token = new_token(Prefix.PERSONAL)
    digits = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
    number = 0
    for digit in token[-6:]:
        number = number * 62 + digits.index(digit)
    assert number == zlib.crc32(token[:-6].encode())


@given(place=st.integers(min_value=0, max_value=55), letter=st.characters())
def test_a_token_with_another_letter_is_none(place: int, letter: str) -> None:
    token = new_token(Prefix.PERSONAL)
    changed = token[:place] + letter + token[place + 1 :]
    assert (prefix_of(changed) is None) == (changed != token)


@given(st.text())
def test_any_text_is_read_without_failing(text: str) -> None:
    for made_up in (text, f"cs_pat_{text}"):
        assert prefix_of(made_up) is None


@pytest.mark.parametrize("prefix", Prefix)
def test_only_three_kinds_say_who_is_calling(prefix: Prefix) -> None:
    assert {Prefix.PERSONAL, Prefix.LOGIN, Prefix.EXCHANGED} == BEARER
    if prefix in BEARER:
        assert check_bearer(new_token(prefix)) is prefix
    else:
        with pytest.raises(NotAuthenticated, match="not an access token"):
            check_bearer(new_token(prefix))


def test_every_scope_is_explained_to_people_and_is_attended_or_not() -> None:
    assert set(SCOPE_MEANINGS) == set(Scope)
    assert set(Scope) == ATTENDED | UNATTENDED
    assert {Scope.APPROVE, Scope.ADMIN} == ATTENDED


def test_no_scope_of_a_pipeline_lets_it_approve_or_administer() -> None:
    held = frozenset[Permission]().union(*(SCOPE_PERMISSIONS[scope] for scope in UNATTENDED))
    assert not held & {
        Permission.PROMOTIONS_DECIDE,
        Permission.GRANTS_ADMINISTER,
        Permission.IDENTITIES_ADMINISTER,
        Permission.POLICIES_ADMINISTER,
        Permission.SERVER_ADMINISTER,
    }


def test_a_token_is_as_it_was_asked_for() -> None:
    assert asked(name="  nightly ", scopes=[Scope.TRACK, Scope.TRACK], days=90) == Wanted(
        "nightly", frozenset({Scope.TRACK}), timedelta(days=90)
    )


@pytest.mark.parametrize("attended", sorted(ATTENDED))
@pytest.mark.parametrize("unattended", sorted(UNATTENDED))
def test_attended_scopes_stand_apart(attended: Scope, unattended: Scope) -> None:
    with pytest.raises(InvalidInput, match="cannot be in one token"):
        asked(scopes=[attended, unattended])
    with pytest.raises(InvalidInput, match="1 to 1 "):
        asked(scopes=[attended], days=2)
    assert asked(scopes=[attended], days=1).lasts == timedelta(days=1)


@pytest.mark.parametrize(
    ("changed", "error"),
    [
        ({"name": " "}, InvalidInput),
        ({"name": "a\nb"}, InvalidInput),
        ({"name": "n" * 65}, InvalidInput),
        ({"scopes": []}, InvalidInput),
        ({"days": 0}, InvalidInput),
        ({"days": -1}, InvalidInput),
        ({"days": 91}, InvalidInput),
        ({"kind": PrincipalKind.SERVICE}, Forbidden),
        ({"by": Credential(CredentialKind.PERSONAL)}, Forbidden),
        ({"by": Credential(CredentialKind.EXCHANGED)}, Forbidden),
        ({"by": Credential(CredentialKind.PROVIDER, scopes=frozenset({Scope.TRACK}))}, Forbidden),
        ({"by": Credential(CredentialKind.LOGIN, scopes=frozenset({Scope.REGISTRY}))}, InsufficientScope),
    ],
    ids=str,
)
def test_other_tokens_are_refused(changed: dict[str, object], error: type[CountersignError]) -> None:
    with pytest.raises(error):
        asked(**changed)


def test_every_kind_of_credential_is_decided_on() -> None:
    interactive = {CredentialKind.SESSION, CredentialKind.LOGIN, CredentialKind.PROVIDER}
    for kind in CredentialKind:
        if kind in interactive:
            asked(by=Credential(kind))
        else:
            with pytest.raises(Forbidden):
                asked(by=Credential(kind))


_scopes = st.frozensets(st.sampled_from(Scope))


@given(requested=_scopes, held=st.none() | _scopes)
def test_an_exchange_never_gives_more(requested: frozenset[Scope], held: frozenset[Scope] | None) -> None:
    left = requested & UNATTENDED & (frozenset(Scope) if held is None else held)
    if left:
        assert exchanged_scopes(requested, held) == left
    else:
        with pytest.raises(OAuthRefused, match="Nothing is left"):
            exchanged_scopes(requested, held)


def test_scopes_are_read_and_written_as_oauth_does() -> None:
    assert scopes_of("track openid  promote") == {Scope.TRACK, Scope.PROMOTE}
    assert scope_text({Scope.TRACK, Scope.PROMOTE}) == "promote track"
    for nothing in (None, "", "openid", "track,promote", "TRACK"):
        with pytest.raises(OAuthRefused):
            scopes_of(nothing)


def test_a_user_code_is_read_however_it_is_typed() -> None:
    code = new_user_code()
    shown = shown_user_code(code)
    assert re.fullmatch(f"[{USER_CODE_LETTERS}]{{4}}-[{USER_CODE_LETTERS}]{{4}}", shown)
    assert not set("AEIOUY") & set(USER_CODE_LETTERS)
    for typed in (shown, code, shown.lower(), f" {shown} ", " ".join(code)):
        assert read_user_code(typed) == code
    for typed in ("", "BBBB-BBB", "BBBB-BBBBB", "AAAA-AAAA", "BBBB_BBBB", "B" * 10_000, "ББББ-ББББ"):
        assert read_user_code(typed) is None


@given(st.text())
def test_any_text_may_be_typed(text: str) -> None:
    code = read_user_code(text)
    assert code is None or set(code) <= set(USER_CODE_LETTERS)
