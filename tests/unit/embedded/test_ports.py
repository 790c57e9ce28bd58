"""Ports stay the same as long as they can."""

from __future__ import annotations

import socket
from pathlib import Path

from app.embedded.ports import FIRST, LAST, Ports


def test_a_port_is_the_same_at_the_next_start(tmp_path: Path) -> None:
    file = tmp_path / "ports.json"
    assert Ports(file).of("mlflow") == Ports(file).of("mlflow")


def test_two_names_never_share_a_port(tmp_path: Path) -> None:
    ports = Ports(tmp_path / "ports.json")
    drawn = [ports.of(f"part-{number}") for number in range(50)]
    assert len(set(drawn)) == 50
    assert all(FIRST <= port <= LAST for port in drawn)


def test_a_port_that_somebody_else_took_is_drawn_anew_and_kept(tmp_path: Path) -> None:
    file = tmp_path / "ports.json"
    first = Ports(file).of("mlflow")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", first))
        taken.listen()
        second = Ports(file).of("mlflow")
    assert second != first
    assert Ports(file).of("mlflow") == second


def test_the_port_of_the_gateway_is_given_to_no_other_part(tmp_path: Path) -> None:
    file = tmp_path / "ports.json"
    port = Ports(file).of("mlflow")
    assert Ports(file, reserved=[port]).of("mlflow") != port


def test_a_broken_file_of_ports_is_written_anew(tmp_path: Path) -> None:
    file = tmp_path / "ports.json"
    file.write_text("{ not json")
    port = Ports(file).of("mlflow")
    assert Ports(file).of("mlflow") == port
