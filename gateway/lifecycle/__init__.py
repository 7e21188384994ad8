"""From aspired versions to answering ones: the reconcile loops. See README.md."""

from gateway.lifecycle.election import Election
from gateway.lifecycle.inherited import InheritingScheduler
from gateway.lifecycle.leaders_control import LeadersControl
from gateway.lifecycle.member import Member
from gateway.lifecycle.reconcile import Emit, Lifecycle
from gateway.lifecycle.settings import LifecycleSettings, MemberSettings
from gateway.lifecycle.shared_planes import SharedPlanes
from gateway.lifecycle.term import Term

__all__ = [
    "Election",
    "Emit",
    "InheritingScheduler",
    "LeadersControl",
    "Lifecycle",
    "LifecycleSettings",
    "Member",
    "MemberSettings",
    "SharedPlanes",
    "Term",
]
