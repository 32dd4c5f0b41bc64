"""``safeguard robot certify``: its options, and what it does between them and its exit code."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.table import Table

if TYPE_CHECKING:
    from safeguard.core.certificate import Certificate

PayloadKg = Annotated[str | None, typer.Option(help="Known load, as in 1 or 0:2.", show_default="0")]
PayloadCom = Annotated[float | None, typer.Option(help="Half the cube that holds its centre.", show_default="0")]
PayloadError = Annotated[float | None, typer.Option(help="Load that the model does not know of.", show_default="0")]
MassError = Annotated[float | None, typer.Option(help="Share of every link's mass.", show_default="0.1")]
Friction = Annotated[str | None, typer.Option(help="Unmodelled: one number, or one a joint.", show_default="1 %")]
ExternalTorque = Annotated[str | None, typer.Option(help="One number, or one a joint.", show_default="0")]
PositionError = Annotated[float | None, typer.Option(help="Of the state.", show_default="1e-4")]
VelocityError = Annotated[float | None, typer.Option(help="Of the state.", show_default="2e-3")]
Delay = Annotated[int, typer.Option(min=0, help="Periods from decision to actuation.")]
Period = Annotated[float, typer.Option(help="Control period, s.")]
Epsilon = Annotated[float, typer.Option(help="Declared probability of violation.")]
Beta = Annotated[float, typer.Option(help="One minus the confidence in it.")]
Seed = Annotated[int, typer.Option(min=0, help="Of the samples.")]


def certify_robot(
    name: str,
    told: dict[str, Any],
    dt: float,
    delay_ticks: int,
    epsilon: float,
    beta: float,
    seed: int,
    progress: Callable[[str, int, int], None],
) -> Certificate:
    """The certificate of a robot by name; ``told`` holds the options about its uncertainty as they were typed.

    Raises:
        NotCertifiableError: the robot has no authority left; names the joint.
        CertificateError: an option cannot be read or does not fit the robot.
    """
    from safeguard.controllers.certify import certify
    from safeguard.core.certificate import Uncertainty
    from safeguard.core.robot import RobotModel

    robot = RobotModel.load(name)
    parsed = {key: _read(key, value) for key, value in told.items() if value is not None}
    uncertainty = Uncertainty.of(robot, **parsed)
    return certify(
        robot,
        dt,
        uncertainty,
        delay_ticks=delay_ticks,
        epsilon=epsilon,
        beta=beta,
        seed=seed,
        progress=progress,
    )


def _read(key: str, value: Any) -> Any:
    """A number stays; "0:2" is a range, "2" the range 2:2, "1,2,3" a list."""
    if not isinstance(value, str):
        return value
    from safeguard.core.certificate import CertificateError

    try:
        if key == "payload_kg":
            low, _, high = value.partition(":")
            return float(low), float(high or low)
        numbers = [float(part) for part in value.split(",")]
    except ValueError as error:
        raise CertificateError(f"{key} = {value!r}: expected numbers, as in 2, 0:2 or 0.5,0.5") from error
    return numbers if len(numbers) > 1 else numbers[0]


def certificate_table(certificate: Certificate) -> Table:
    """One row a joint: envelope, deceleration, torques and margins. It fits 80 columns; only names of joints fold."""
    table = Table(title=certificate.robot, title_justify="left", box=SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
    table.add_column("joint", overflow="fold")
    for head in (
        "speed\nrad/s\n(of limit)",
        "brake\nrad/s²\n(of limit)",
        "authority −\ndisturbance\n= left, N·m",
        "position\nmargin\nmrad",
        "speed\nmargin\nmrad/s",
    ):
        table.add_column(head, justify="right", no_wrap=True)
    digits = 1 if max(joint.authority_nm for joint in certificate.joints) >= 10.0 else 2
    for joint in certificate.joints:
        parts = (joint.authority_nm, joint.disturbance_nm, joint.remaining_nm)
        authority, disturbance, left = (f"{part:.{digits}f}" for part in parts)
        table.add_row(
            joint.joint,
            f"{joint.speed_radps:.2f} ({joint.speed_share:.0%})",
            f"{joint.deceleration_radps2:.2f} ({joint.deceleration_share:.0%})",
            f"{authority} − {disturbance} = {left}",
            f"{1e3 * joint.position_margin_rad:.1f}",
            f"{1e3 * joint.velocity_margin_radps:.1f}",
        )
    return table


def certificate_sentence(certificate: Certificate) -> str:
    """What is certified, in one sentence."""
    u, s = certificate.uncertainty, certificate.statement
    low, high = u.payload_kg
    load = "" if high == 0.0 else f" a known payload of {low:g} to {high:g} kg,"
    extra = "" if u.payload_error_kg == 0.0 else f" up to {u.payload_error_kg:g} kg that the model does not know of,"
    friction, push = (f"{max(x):.3g} N·m" for x in (u.friction_nm, u.external_torque_nm))
    return (
        f"With confidence 1 − {s.beta:g}, at least {1.0 - s.epsilon:.4g} of the declared stops of {certificate.robot} "
        f"({s.validation_samples:,} fresh ones, {s.violations} broke a number, bound {s.bound:.4f}) brake all joints "
        "at once from within this envelope with this deceleration, and leave the disturbance its torque, "
        f"with{load}{extra} masses wrong by up to {u.mass_error_share:.0%}, unmodelled friction up to {friction}, "
        f"external torque up to {push}, a control period of {1e3 * certificate.dt_s:g} ms and a delay of "
        f"{certificate.delay_ticks}."
    )
