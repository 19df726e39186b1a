//! Explicit congestion notification through the tunnel (RFC 6040).
//!
//! On the way out the whole TOS octet is copied (normal mode), on the way in
//! the two marks are combined.

const MASK: u8 = 3;
const NOT_ECT: u8 = 0;
const ECT_1: u8 = 1;
const ECT_0: u8 = 2;
const CE: u8 = 3;

/// The outer header says congestion, the inner sender cannot be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct MustDrop;

/// The TOS of the packet that leaves the tunnel (RFC 6040 4.2).
pub(super) const fn decapsulate(outer: u8, inner: u8) -> Result<u8, MustDrop> {
    match (inner & MASK, outer & MASK) {
        (NOT_ECT, CE) => Err(MustDrop),
        (ECT_0 | ECT_1, CE) => Ok(inner | CE),
        (ECT_0, ECT_1) => Ok(inner & !MASK | ECT_1),
        _ => Ok(inner),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_combine_as_in_figure_4_of_rfc_6040() {
        // Rows: inner; columns: outer Not-ECT, ECT(0), ECT(1), CE.
        let table = [
            (NOT_ECT, [Some(0), Some(0), Some(0), None]),
            (ECT_0, [Some(ECT_0), Some(ECT_0), Some(ECT_1), Some(CE)]),
            (ECT_1, [Some(ECT_1), Some(ECT_1), Some(ECT_1), Some(CE)]),
            (CE, [Some(CE), Some(CE), Some(CE), Some(CE)]),
        ];
        for (inner, row) in table {
            for (outer, expected) in [NOT_ECT, ECT_0, ECT_1, CE].into_iter().zip(row) {
                let dscp = 0b1011_1000;
                assert_eq!(
                    decapsulate(0b0101_0100 | outer, dscp | inner).ok(),
                    expected.map(|ecn| dscp | ecn),
                    "inner {inner} outer {outer}"
                );
            }
        }
    }
}
