//! Checksum arithmetic where the kernel has no helper for it.

/// The polynomial of CRC32c (RFC 9260 appendix A), bits reversed.
const POLYNOMIAL: u32 = 0x82f6_3b78;

/// x^(8 * 2^k) modulo the polynomial: advances a CRC by 2^k zero bytes.
const POWERS: [u32; 16] = powers();

/// Adapts the CRC32c of an SCTP packet, as it stands in the header read as a little-endian number, to other ports.
///
/// CRCs are linear: what changes is the CRC of the difference, shifted by the bytes that follow it. So the
/// packet's payload is not read. `difference` is the old first four bytes XOR the new ones, read as a
/// little-endian number; `following` the number of bytes after them, at most 65,535.
#[inline(always)]
#[must_use]
pub const fn adapt_crc32c(crc: u32, difference: u32, following: u32) -> u32 {
    let mut delta = difference;
    let mut bit = 0;
    while bit < 32 {
        delta = step(delta);
        bit += 1;
    }
    let mut power = 0;
    while power < 16 {
        let shifted = multiply(delta, POWERS[power]);
        let is_set = mask(following >> power);
        delta = shifted & is_set | delta & !is_set;
        power += 1;
    }
    crc ^ delta
}

/// All ones if the lowest bit is set, else zero. Opaque to the compiler, which would make a branch of it, and the
/// verifier would follow all combinations of hundreds of branches.
#[inline(always)]
const fn mask(bit: u32) -> u32 {
    core::hint::black_box((bit & 1).wrapping_neg())
}

/// Times x, modulo the polynomial.
#[inline(always)]
const fn step(value: u32) -> u32 {
    value >> 1 ^ POLYNOMIAL & mask(value)
}

/// The product modulo the polynomial.
#[inline(always)]
const fn multiply(a: u32, b: u32) -> u32 {
    let (mut a, mut b, mut product) = (a, b, 0);
    let mut bit = 0;
    while bit < 32 {
        product ^= b & mask(a >> 31);
        a <<= 1;
        b = step(b);
        bit += 1;
    }
    product
}

const fn powers() -> [u32; 16] {
    // x^0 is the highest bit.
    let mut power = 1 << 31;
    let mut exponent = 0;
    while exponent < 8 {
        power = step(power);
        exponent += 1;
    }
    let mut powers = [0; 16];
    let mut k = 0;
    while k < 16 {
        powers[k] = power;
        power = multiply(power, power);
        k += 1;
    }
    powers
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bit by bit, from the definition.
    fn crc32c(bytes: &[u8]) -> u32 {
        let mut crc = u32::MAX;
        for byte in bytes {
            crc ^= u32::from(*byte);
            for _ in 0..8 {
                crc = if crc & 1 == 1 { crc >> 1 ^ POLYNOMIAL } else { crc >> 1 };
            }
        }
        !crc
    }

    #[test]
    fn the_reference_is_crc32c() {
        // RFC 3720 appendix B.4.
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    }

    proptest::proptest! {
        #[test]
        fn adapting_is_computing_anew(
            mut packet in proptest::collection::vec(proptest::prelude::any::<u8>(), 12..9_000),
            ports: [u8; 4],
        ) {
            let old: [u8; 4] = packet[..4].try_into().unwrap();
            let before = crc32c(&packet);
            packet[..4].copy_from_slice(&ports);
            let difference = u32::from_le_bytes(old) ^ u32::from_le_bytes(ports);
            let following = u32::try_from(packet.len() - 4).unwrap();
            proptest::prop_assert_eq!(adapt_crc32c(before, difference, following), crc32c(&packet));
        }
    }

    #[test]
    fn the_longest_packet() {
        let mut packet = vec![0x5a; 65_535];
        let before = crc32c(&packet);
        packet[1] = 0xff;
        let difference = u32::from_le_bytes([0, 0x5a ^ 0xff, 0, 0]);
        assert_eq!(adapt_crc32c(before, difference, 65_531), crc32c(&packet));
    }
}
