//! Vendor ids (RFC 7296 3.12): who the other end is, for the operator. Nothing is
//! decided by them but the multiple-interface extension, whose numbers mean
//! something only behind its own. Ours is sent inside IKE_AUTH only.

#![forbid(unsafe_code)]

use super::message::Payload;
use super::mif::VENDOR_ID;

/// By the octets an id begins with: some are followed by a version.
const KNOWN: &[(&[u8], &str)] = &[
    (&VENDOR_ID, "mifsec"),
    // MD5 of "strongSwan".
    (
        b"\x88\x2f\xe5\x6d\x6f\xd2\x0d\xbc\x22\x51\x61\x3b\x2e\xbe\x5b\xeb",
        "strongSwan",
    ),
    // MD5 of "MS NT5 ISAKMPOAKLEY".
    (
        b"\x1e\x2b\x51\x69\x05\x99\x1c\x7d\x7c\x96\xfc\xbf\xb5\x87\xe4\x61",
        "Windows",
    ),
    (b"CISCO-", "Cisco"),
    (b"OpenIKED", "OpenIKED"),
];

/// The first of these payloads' vendor ids we know; any other is ignored.
pub(super) fn name(payloads: &[Payload]) -> Option<&'static str> {
    payloads.iter().find_map(|payload| match payload {
        Payload::VendorId(id) => KNOWN
            .iter()
            .find(|(start, _)| id.starts_with(start))
            .map(|(_, name)| *name),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_known_id_has_a_name_with_or_without_a_version_and_others_have_none() {
        let id = |id: &[u8]| Payload::VendorId(id.to_vec());
        let mut windows = KNOWN[2].0.to_vec();
        windows.extend([0, 0, 0, 9]);
        assert_eq!(
            name(&[id(b""), id(&[7; 16]), id(&windows)]),
            Some("Windows")
        );
        assert_eq!(name(&[id(KNOWN[1].0)]), Some("strongSwan"));
        assert_eq!(name(&[id(&KNOWN[1].0[..15]), id(&[7; 300])]), None);
    }
}
