"""Constants of the container that its writer and its reader share."""

from __future__ import annotations

FORMAT_VERSION = 6
"""Readers accept every version from 1 up to this one; what is written names the lowest that has
all it needs."""

MIMETYPE = b"application/vnd.osoa-pl"
MIMETYPE_MEMBER = "mimetype"
MANIFEST_MEMBER = "manifest.json"
MAX_MANIFEST_BYTES = 64 << 20

DATE = (1980, 1, 1, 0, 0, 0)
"""Modification time of every member: equal members, equal bytes."""

LOCAL_HEADER_BYTES = 30
"""ZIP's header before each member, without the name."""

ZIP64_FIELD_BYTES = 20
"""The one extra field that a member's header may hold, for members near 2 GiB and above."""
