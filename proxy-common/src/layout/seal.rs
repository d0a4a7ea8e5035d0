//! The hash by which a reader tells that all of a value was written together.

/// One term of a multilinear hash: a sum of words times odd constants. It is not cryptographic; it tells
/// neighbours and mixtures of two values apart, and its terms do not wait for each other.
#[inline(always)]
pub(super) const fn weigh(index: usize, word: u64) -> u64 {
    // Digits of the golden ratio and of pi, made odd: any odd constants without structure would do.
    const WEIGHTS: [u64; 12] = [
        0x9e37_79b9_7f4a_7c15,
        0x243f_6a88_85a3_08d3,
        0x1319_8a2e_0370_7345,
        0xa409_3822_299f_31d1,
        0x082e_fa98_ec4e_6c89,
        0x4528_21e6_38d0_1377,
        0xbe54_66cf_34e9_0c6d,
        0xc0ac_29b7_c97c_50dd,
        0x3f84_d5b5_b547_0917,
        0x9216_d5d9_8979_fb1b,
        0xd131_0ba6_98df_b5ad,
        0x2ffd_72db_d01a_dfb7,
    ];
    // The product alone would leave a word's high bits out of the sum's low ones, and the other way round.
    (word ^ word >> 29).wrapping_mul(WEIGHTS[index])
}

#[inline(always)]
pub(super) const fn pair(high: u32, low: u32) -> u64 {
    (high as u64) << 32 | low as u64
}
