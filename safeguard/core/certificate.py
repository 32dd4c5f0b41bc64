"""The braking certificate: a speed envelope and a deceleration that belong together, and the margins they need.

It is a probabilistic statement over a declared distribution. The filter's check of every stop carries the guarantee,
the certificate the numbers (docs/concepts/certificate.md).
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from safeguard.core.errors import SafeguardError
from safeguard.core.robot import RobotModel
from safeguard.core.types import Vector, frozen_array

Amount = Annotated[float, Field(ge=0.0)]
Positive = Annotated[float, Field(gt=0.0)]
Share = Annotated[float, Field(gt=0.0, lt=1.0)]

_FRICTION_SHARE = 0.01  # of the torque limit, where nothing is declared
_ROUNDING = 1e-9


class CertificateError(SafeguardError):
    """A certificate that is damaged, or that belongs to something else."""


class NotCertifiableError(CertificateError):
    """No speed envelope leaves authority after the disturbance.

    Attributes:
        joint: where it fails.
    """

    def __init__(self, joint: str, message: str) -> None:
        self.joint = joint
        super().__init__(message)


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Uncertainty(_Section):
    """What the real arm may differ by from the model that the filter computes with.

    Lists have one value a joint. The load of ``payload_kg`` is known to the filter (``RobotModel.with_payload``);
    ``payload_error_kg`` is what it does not know of.
    """

    payload_kg: tuple[Amount, Amount] = Field(default=(0.0, 0.0), description="least and largest known load")
    payload_com_m: Amount = Field(
        default=0.0, description="half the side of the cube at the tool that holds its centre"
    )
    payload_error_kg: Amount = Field(default=0.0, description="load more or less than known")
    mass_error_share: float = Field(default=0.1, ge=0.0, lt=1.0, description="of every link and rotor")
    friction_nm: tuple[Amount, ...] = Field(description="unmodelled Coulomb friction")
    external_torque_nm: tuple[Amount, ...] = Field(description="whatever pushes")
    position_error_rad: Amount = Field(default=1e-4, description="of the measured position")
    velocity_error_radps: Amount = Field(default=2e-3, description="of the measured speed")

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.payload_kg[0] > self.payload_kg[1]:
            raise ValueError(f"payload_kg is {self.payload_kg}: the first must not exceed the second")
        return self

    @classmethod
    def of(cls, robot: RobotModel, **declared: Any) -> Self:
        """The uncertainty of ``robot`` with its defaults: 10 % of mass, friction of 1 % of the torque limits.

        ``friction_nm`` and ``external_torque_nm`` may be one number for all joints.

        Raises:
            CertificateError: a value is out of range, or a list does not fit the joints.
        """
        values = {"friction_nm": (_FRICTION_SHARE * robot.limits.tau_max).tolist(), "external_torque_nm": 0.0}
        values |= {key: value for key, value in declared.items() if value is not None}
        for key in ("friction_nm", "external_torque_nm"):
            given = np.atleast_1d(np.asarray(values[key], dtype=float))
            if given.shape not in ((1,), (robot.n,)):
                raise CertificateError(
                    f"{key}: {given.size} values for {robot.n} joints ({', '.join(robot.joints)}); give 1 or {robot.n}"
                )
            values[key] = tuple(np.broadcast_to(given, robot.n).tolist())
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            first = error.errors()[0]
            key = ".".join(map(str, first["loc"])) or "uncertainty"
            raise CertificateError(f"{key} = {first['input']!r}: {first['msg']}") from error


class JointCertificate(_Section):
    """What is certified of one joint (of a prismatic one, read m for rad and N for N·m).

    Attributes:
        joint: name.
        speed_radps: envelope; no state that a stop starts from may be faster.
        speed_share: of the speed limit.
        deceleration_radps2: guaranteed, with all joints braking at once.
        deceleration_share: of the acceleration limit.
        authority_nm: torque limit less the largest torque of a nominal stop.
        disturbance_nm: largest torque that the feedback has to supply; the reserve that nominal stops keep.
        remaining_nm: authority minus disturbance; positive.
        disturbance_radps2: largest acceleration error without feedback, W.
        push_radps2: the part of it that pushes along the motion, W₊; friction does not.
        path_margin_rad: tube around the stop, |q − q_ref|.
        position_margin_rad: the tube ahead of the stop; planned stops end this far inside the limits.
        velocity_margin_radps: commanded speeds stay this far inside the envelope.
    """

    joint: str
    speed_radps: Positive
    speed_share: Annotated[float, Field(gt=0.0, le=1.0)]
    deceleration_radps2: Positive
    deceleration_share: Annotated[float, Field(gt=0.0, le=1.0)]
    authority_nm: Positive
    disturbance_nm: Amount
    remaining_nm: Positive
    disturbance_radps2: Amount
    push_radps2: Amount
    path_margin_rad: Amount
    position_margin_rad: Amount
    velocity_margin_radps: Amount

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if abs(self.authority_nm - self.disturbance_nm - self.remaining_nm) > _ROUNDING * self.authority_nm:
            raise ValueError(f"{self.joint}: remaining_nm is not authority_nm minus disturbance_nm")
        if self.velocity_margin_radps >= self.speed_radps:
            raise ValueError(f"{self.joint}: the velocity margin leaves nothing of the speed envelope")
        return self


class Statement(_Section):
    """The probabilistic statement, and how to check it.

    With confidence 1 − ``beta`` a fresh stop of the ``distribution`` breaks the numbers with probability at most
    ``epsilon``: a Clopper–Pearson bound on ``validation_samples`` fresh stops, ``violations`` of which broke them.

    Attributes:
        epsilon, beta: declared.
        bound: on the probability of violation, with confidence 1 − beta; at most epsilon.
        scenario_bound: what the scenario theorem gives for the design alone, valid for every envelope that was tried;
            None where no convex program was solved.
        design_samples, dropped_samples: what the design was made with, and how many of the hardest it may leave out.
        validation_samples, violations, seed: of the samples.
        envelopes: speed shares that were tried.
        distribution: of the samples, in words.
        program: text of the program that was solved.
        tools: versions of what computed it.
    """

    epsilon: Share
    beta: Share
    bound: Amount
    scenario_bound: Amount | None
    design_samples: Annotated[int, Field(ge=1)]
    dropped_samples: Annotated[int, Field(ge=0)]
    validation_samples: Annotated[int, Field(ge=1)]
    violations: Annotated[int, Field(ge=0)]
    seed: Annotated[int, Field(ge=0)]
    envelopes: tuple[float, ...]
    distribution: str
    program: str
    tools: tuple[tuple[str, str], ...]

    @model_validator(mode="after")
    def _holds(self) -> Self:
        if self.bound > self.epsilon:
            raise ValueError(f"bound {self.bound} is above epsilon {self.epsilon}")
        return self


class Certificate(_Section):
    """A speed envelope and a deceleration for one robot, control period, delay and uncertainty.

    Attributes:
        kind: "certified", or "provisional" for the quick one.
        robot: name. robot_digest: of the model without the loads of ``payload_kg``.
        own_changes: number of payloads, tools and obstacle sets that the certified model itself has.
        dt_s: control period. delay_ticks: periods between decision and actuation.
        tracking_radps: natural frequency of the backup's tracking law that the margins hold for.
        uncertainty, joints, statement: the numbers.
        digest: SHA-256 over everything above.
    """

    version: Literal[1] = 1
    kind: Literal["certified", "provisional"]
    robot: str
    robot_digest: str
    own_changes: Annotated[int, Field(ge=0)]
    dt_s: Positive
    delay_ticks: Annotated[int, Field(ge=0)]
    tracking_radps: Positive
    uncertainty: Uncertainty
    joints: tuple[JointCertificate, ...]
    statement: Statement
    digest: str = ""

    @property
    def provisional(self) -> bool:
        """It is the quick one."""
        return self.kind == "provisional"

    @property
    def speed(self) -> Vector:
        """Speed envelope, shape (n,), rad/s."""
        return self._column("speed_radps")

    @property
    def deceleration(self) -> Vector:
        """Guaranteed deceleration, shape (n,), rad/s²."""
        return self._column("deceleration_radps2")

    @property
    def torque_reserve(self) -> Vector:
        """What nominal stops leave to the feedback, shape (n,), N·m."""
        return self._column("disturbance_nm")

    @property
    def position_margin(self) -> Vector:
        """Shape (n,), rad."""
        return self._column("position_margin_rad")

    @property
    def path_margin(self) -> Vector:
        """Shape (n,), rad."""
        return self._column("path_margin_rad")

    @property
    def velocity_margin(self) -> Vector:
        """Shape (n,), rad/s."""
        return self._column("velocity_margin_radps")

    @property
    def acceleration_error(self) -> Vector:
        """W, shape (n,), rad/s²."""
        return self._column("disturbance_radps2")

    def _column(self, name: str) -> Vector:
        return frozen_array([getattr(joint, name) for joint in self.joints])

    def sealed(self) -> Self:
        """The same with its digest."""
        return self.model_copy(update={"digest": self._digest()})

    def _digest(self) -> str:
        content = json.dumps(self.model_dump(mode="json", exclude={"digest"}), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(content.encode()).hexdigest()

    def save(self, path: Path) -> None:
        """Write it as JSON."""
        path.write_text(self.sealed().model_dump_json(indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a certificate.

        Raises:
            CertificateError: the file is missing, damaged or edited.
        """
        try:
            return cls.parse(path.read_bytes(), str(path))
        except OSError as error:
            raise CertificateError(f"{path}: cannot be read: {error}; run 'safeguard robot certify'") from error

    @classmethod
    def parse(cls, content: bytes, where: str) -> Self:
        """A certificate from the bytes of its file; raises ``CertificateError`` as ``load``."""
        try:
            found = cls.model_validate_json(content)
        except ValidationError as error:
            raise CertificateError(f"{where}: damaged: {error}; run 'safeguard robot certify' again") from error
        if found.digest != found._digest():
            raise CertificateError(
                f"{where}: digest {found.digest[:12]!r} does not fit its content; run 'safeguard robot certify' again"
            )
        return found

    def check(self, robot: RobotModel, dt: float, delay_ticks: int) -> None:
        """Raise unless this certificate covers ``robot`` with this control period (s) and delay.

        Beyond the certified model, the robot may know of obstacles and carry known loads: in all within
        ``payload_kg``, their centres within ``payload_com_m`` of the tool, without inertia of their own.

        Raises:
            CertificateError: it is of another robot, load, period or delay; names both values.
        """
        for what, own, given in (("dt_s", self.dt_s, dt), ("delay_ticks", self.delay_ticks, delay_ticks)):
            if own != given:
                raise self._foreign(f"{what} = {own}", str(given))
        changes = list(robot.source.get("changes", ()))
        added, digest = changes[self.own_changes :], robot.digest
        if added:
            digest = RobotModel.from_source({**robot.source, "changes": changes[: self.own_changes]}).digest
        if digest != self.robot_digest:
            raise self._foreign(f"robot {self.robot!r} {self.robot_digest[:12]}", f"{robot.name!r} {digest[:12]}")
        for change in added:
            if change["kind"] not in ("payload", "obstacles"):
                raise self._foreign(f"robot {self.robot!r} without it", f"a {change['kind']}")
        self._check_loads([change for change in added if change["kind"] == "payload"])

    def _check_loads(self, loads: list[Any]) -> None:
        (least, most), half = self.uncertainty.payload_kg, self.uncertainty.payload_com_m
        mass = sum(float(load["mass"]) for load in loads)
        if not least - _ROUNDING <= mass <= most + _ROUNDING:
            raise self._foreign(f"payload_kg = {least:g} to {most:g}", f"{mass:g} kg")
        for load in loads:
            if load["mass"] > 0.0 and np.abs(load["com"]).max() > half + _ROUNDING:
                raise self._foreign(f"payload_com_m = {half:g}", f"a load at {load['com']} m")
            if np.any(load["inertia"]):
                raise self._foreign("point loads", "a load with inertia")

    def _foreign(self, own: str, given: str) -> CertificateError:
        return CertificateError(
            f"certificate {self.digest[:12]}: made for {own}, not for {given}; run 'safeguard robot certify' for these"
        )
