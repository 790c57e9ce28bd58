"""A folder is opened to one user, and to nobody else."""

from __future__ import annotations

from app.embedded.passage import admit, decode, encode, may_pass

OWNER, USER, GROUP_OWNER, MASK, OTHERS = 0x01, 0x02, 0x04, 0x10, 0x20
NOBODY = 0xFFFFFFFF
PRIVATE = {(OWNER, NOBODY): 7, (GROUP_OWNER, NOBODY): 0, (OTHERS, NOBODY): 0}


def test_the_user_may_pass_but_neither_list_nor_write() -> None:
    assert admit(PRIVATE, 999)[USER, 999] == 1


def test_an_entry_that_a_later_chmod_masked_out_is_given_again() -> None:
    masked = {**admit(PRIVATE, 999), (MASK, NOBODY): 0}
    assert not may_pass(masked, 999)
    assert may_pass(admit(masked, 999), 999)


def test_owner_group_and_others_keep_what_they_had() -> None:
    admitted = admit(PRIVATE, 999)
    assert {entry: admitted[entry] for entry in PRIVATE} == PRIVATE


def test_the_mask_takes_nothing_from_a_group_that_had_more() -> None:
    assert admit({**PRIVATE, (GROUP_OWNER, NOBODY): 5}, 999)[MASK, NOBODY] == 5


def test_a_list_that_is_there_is_kept() -> None:
    entries = {**PRIVATE, (USER, 5): 6, (MASK, NOBODY): 6}
    admitted = admit(entries, 999)
    assert admitted[USER, 5] == 6
    assert admitted[MASK, NOBODY] == 7


def test_what_is_written_is_what_is_read() -> None:
    entries = admit(PRIVATE, 999)
    assert decode(encode(entries)) == entries


def test_entries_are_in_the_order_the_kernel_wants() -> None:
    assert encode({(OTHERS, NOBODY): 0, (USER, 9): 1, (OWNER, NOBODY): 7, (USER, 3): 1}).hex() == (
        "0200000001000700ffffffff0200010003000000020001000900000020000000ffffffff"
    )
