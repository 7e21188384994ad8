"""On which side of a rollout a request falls: the stable version's or the canary's.

Every request has a **place** in [0, 1), and the canary answers it while the place lies below the
canary's weight. So a weight that grows takes over the places next to its own and gives none back:
nobody who has had the canary's answers gets the stable version's again before a rollback. (The
usual ring of buckets, as in Envoy's runtime fractions and every experiment platform since Kohavi et
al. 2009, with the buckets made infinitely small.)

The place of a request with a sticky key is a hash of the model's name and the key, and nothing
else: no seed of this process, no protocol, no count of replicas. So each gateway, each of its
workers, and HTTP and gRPC put the same key in the same place; and models are split independently of
each other, or the same people would get every canary. A request without a key draws its place.
"""

from __future__ import annotations

from hashlib import blake2b

STICKY = "x-gateway-key"
"""Header or metadata that holds the sticky key, unless a model names another."""

OVERRIDE = "x-gateway-version-label"
"""Header or metadata with which a tester chooses a side: `canary` or `stable`."""

CANARY_PLACE = -1.0
STABLE_PLACE = 1.0
"""Places that were chosen: below every weight, and below none."""

_SCALE = 2.0**-53


def place_of(model: str, key: str) -> float:
    """The place of a sticky key, in [0, 1), the same everywhere and for ever.

    blake2b and not `hash()`: that one is salted anew in every process. 53 of its bits, which a
    float holds exactly.
    """
    digest = blake2b(
        f"{model}\0{key}".encode("utf-8", "surrogateescape"), digest_size=8, person=b"gw-split"
    ).digest()
    return (int.from_bytes(digest, "big") >> 11) * _SCALE


def place(model: str, key: str | None, override: str | None) -> float | None:
    """The place of a request with these two fields; None: it is to be drawn, from [0, 1). An
    override that is none of the two sides is no override: a header of somebody else's, say."""
    if override == "canary":
        return CANARY_PLACE
    if override == "stable":
        return STABLE_PLACE
    return place_of(model, key) if key else None


def is_chosen(place: float) -> bool:
    """Whether the caller chose the side, so that the request tells nothing about the split."""
    return not 0.0 <= place < 1.0
