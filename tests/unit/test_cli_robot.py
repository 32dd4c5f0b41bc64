from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from safeguard import cli
from safeguard.cli_robot import certificate_sentence, certificate_table
from safeguard.core.certificate import Certificate, JointCertificate
from tests.unit.certificate_support import certificate

COARSE = ["--epsilon", "0.08", "--beta", "0.001"]
LIGHT = ["--payload-kg", "0:0.2", "--payload-com-m", "0.02"]


@dataclass(frozen=True)
class Done:
    """What a command left behind."""

    code: int
    out: str
    err: str


Call = Callable[..., Done]


def cells(joint: JointCertificate) -> list[str]:
    """The row of a joint, word by word."""
    return [
        joint.joint,
        f"{joint.speed_radps:.2f}",
        f"({joint.speed_share:.0%})",
        f"{joint.deceleration_radps2:.2f}",
        f"({joint.deceleration_share:.0%})",
        *f"{joint.authority_nm:.1f} − {joint.disturbance_nm:.1f} = {joint.remaining_nm:.1f}".split(),
        f"{1e3 * joint.position_margin_rad:.1f}",
        f"{1e3 * joint.velocity_margin_radps:.1f}",
    ]


@pytest.fixture
def robot_certify(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Call:
    """``safeguard robot certify panda``, in an empty folder, with few samples, 80 columns wide."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cli.console, "_width", 80)

    def call(*arguments: str) -> Done:
        monkeypatch.setattr(sys, "argv", ["safeguard", "robot", "certify", "panda", *COARSE, *arguments])
        with pytest.raises(SystemExit) as left:
            cli.main()
        printed = capsys.readouterr()
        return Done(int(left.value.code or 0), printed.out, printed.err)

    return call


@pytest.mark.parametrize("width", [80, 120])
def test_certify(width: int, robot_certify: Call, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A row a joint with nothing cut off, one sentence, and a file that is the certificate which the function makes."""
    monkeypatch.setattr(cli.console, "_width", width)
    done = robot_certify(*LIGHT, "--out", "panda.json")
    assert done.code == cli.OK, done.err
    rows = [line for line in done.out.splitlines() if line.startswith("panda_joint")]
    assert [row.split() for row in rows] == [cells(joint) for joint in certificate().joints]
    assert all(len(row) <= 80 for row in rows)
    assert certificate_sentence(certificate()) in " ".join(done.out.split())
    assert Certificate.load(tmp_path / "panda.json") == certificate()


def test_long_names_fold_and_numbers_do_not() -> None:
    """In 80 columns a robot with long names has its numbers whole and in one line."""
    first, *rest = certificate().joints
    named = first.model_copy(update={"joint": "left_shoulder_pitch_joint"})
    console = Console(width=80, file=StringIO())
    console.print(certificate_table(certificate().model_copy(update={"joints": (named, *rest)})))
    assert isinstance(console.file, StringIO)
    lines = [line.split() for line in console.file.getvalue().splitlines()]
    assert cells(named)[1:] in [line[1:] for line in lines]


def test_certify_for_machines(robot_certify: Call) -> None:
    """The whole certificate on standard output."""
    done = robot_certify(*LIGHT, "--json")
    assert Certificate.parse(done.out.encode(), "stdout") == certificate()


def test_a_robot_without_authority_is_3(robot_certify: Call, tmp_path: Path) -> None:
    """5 kg are more than the Panda can hold and brake everywhere: exit code 3, the joint, what would help, no file."""
    done = robot_certify("--payload-kg", "5", "--out", "panda.json")
    assert (done.code, done.out) == (cli.FAILED, "")
    assert "not certified: joint 'panda_joint2'" in done.err
    assert "what would help:" in done.err
    assert not (tmp_path / "panda.json").exists()


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("--payload-kg", "heavy", "payload_kg = 'heavy': expected numbers"),
        ("--friction-nm", "0.1,0.2", "friction_nm: 2 values for 7 joints"),
        ("--mass-error", "2", "mass_error_share = 2.0"),
        ("--epsilon", "0", "epsilon = 0.0"),
    ],
)
def test_a_wrong_option_is_2(option: str, value: str, words: str, robot_certify: Call) -> None:
    """Exit code 2 with the key and the value."""
    done = robot_certify(option, value)
    assert done.code == cli.USAGE
    assert words in " ".join(done.err.split())


def test_lists_and_ranges(robot_certify: Call) -> None:
    """One number or one a joint; one number is a range of its own."""
    done = robot_certify(
        "--payload-kg", "0.1", "--friction-nm", "0,0,0,0,0,0,0.1", "--external-torque-nm", "0", "--json"
    )
    made = Certificate.parse(done.out.encode(), "stdout")
    assert made.uncertainty.payload_kg == (0.1, 0.1)
    assert made.uncertainty.friction_nm == (0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.1)
    assert "a known payload of 0.1 to 0.1 kg, masses" in certificate_sentence(made)
