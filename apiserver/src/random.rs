//! Random numbers for names, addresses and intervals. Not for keys.

/// Sixty-four random bits.
pub(crate) fn bits() -> u64 {
    let (high, low) = uuid::Uuid::new_v4().as_u64_pair();
    // Six bits of a UUID are fixed; they are not the same ones in both halves.
    high ^ low.rotate_left(32)
}

/// A number below `bound`, which is not zero.
pub(crate) fn below(bound: u64) -> u64 {
    bits() % bound.max(1)
}
