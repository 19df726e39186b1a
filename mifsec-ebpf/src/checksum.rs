//! The Internet checksum by differences (RFC 1624), in the kernel's convention:
//! words are summed as they lie in memory, so no octet is swapped.

/// Sum of `new` minus `old` in ones' complement: what `bpf_csum_diff` returns
/// and `bpf_l4_csum_replace` takes.
#[inline(always)]
#[must_use]
pub fn difference<const N: usize>(old: [u32; N], new: [u32; N]) -> u32 {
    let mut sum = 0u64;
    for word in old {
        sum += u64::from(!word);
    }
    for word in new {
        sum += u64::from(word);
    }
    fold32(sum)
}

/// A checksum field after what it covers changed by `difference`.
#[inline(always)]
#[must_use]
pub fn apply(field: [u8; 2], difference: u32) -> [u8; 2] {
    let sum = u64::from(!u16::from_ne_bytes(field)) + u64::from(difference);
    (!fold16(fold32(sum))).to_ne_bytes()
}

#[inline(always)]
fn fold32(sum: u64) -> u32 {
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    ((sum & 0xffff_ffff) + (sum >> 32)) as u32
}

#[inline(always)]
fn fold16(sum: u32) -> u16 {
    let sum = (sum & 0xffff) + (sum >> 16);
    ((sum & 0xffff) + (sum >> 16)) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 1071, the slow way.
    fn full(words: &[u16]) -> u16 {
        let mut sum = 0u32;
        for w in words {
            sum += u32::from(*w);
            sum = (sum & 0xffff) + (sum >> 16);
        }
        !(sum as u16)
    }

    #[test]
    fn an_updated_field_equals_a_full_recomputation() {
        let mut seed = 0x9e37_79b9u32;
        let mut random = || {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (seed >> 16) as u16
        };
        for round in 0..20_000 {
            let mut words = [0u16; 10];
            words.iter_mut().for_each(|w| *w = random());
            let mut field = full(&words).to_ne_bytes();
            let pair = |w: &[u16; 10], i: usize| u32::from(w[i]) | u32::from(w[i + 1]) << 16;
            let old = [pair(&words, 2), pair(&words, 4)];
            for (i, extreme) in [(2, 0), (3, 0xffff), (4, 0), (5, 0xffff)] {
                words[i] = if round % 7 == 0 { extreme } else { random() };
            }
            let new = [pair(&words, 2), pair(&words, 4)];
            field = apply(field, difference(old, new));
            assert_eq!(u16::from_ne_bytes(field), full(&words), "round {round}");
        }
    }

    #[test]
    fn nothing_changed_changes_nothing() {
        assert_eq!(apply([0x12, 0x34], difference([7], [7])), [0x12, 0x34]);
    }
}
