//! What the comparison has met lately, and so does next.

use std::sync::atomic::{AtomicU32, Ordering};

/// Which part of the extents differed lately, in thousandths: where most do, asking for digests of extents
/// first costs more than it saves.
#[derive(Debug, Default)]
pub struct Density(AtomicU32);

impl Density {
    /// From here on each block is compared at once.
    const HIGH: u32 = 450;

    pub fn is_high(&self) -> bool {
        self.0.load(Ordering::Relaxed) > Self::HIGH
    }

    /// A range is compared: takes its part with a weight of one in eight.
    pub fn note(&self, extents: usize, differing: usize) {
        let part = u32::try_from(1000 * differing / extents.max(1)).unwrap_or(1000);
        // Two that meet here lose one of many measurements.
        let before = self.0.load(Ordering::Relaxed);
        self.0
            .store(before - before / 8 + part / 8, Ordering::Relaxed);
    }
}

/// Which part of the differing blocks differed in noise only, lately, in thousandths. Where that is next to none,
/// looking for it costs time and saves nothing.
#[derive(Debug)]
pub struct Noise {
    part: AtomicU32,
    not_asked: AtomicU32,
}

impl Default for Noise {
    fn default() -> Self {
        Self {
            part: AtomicU32::new(1000),
            not_asked: AtomicU32::new(0),
        }
    }
}

impl Noise {
    /// From here on it is looked for.
    const WORTH: u32 = 30;

    /// Where it is not worth it, one request in so many asks all the same: other files may have more of it.
    const SELDOM: u32 = 16;

    pub fn is_worth_asking(&self) -> bool {
        self.part.load(Ordering::Relaxed) >= Self::WORTH
            || self.not_asked.fetch_add(1, Ordering::Relaxed) % Self::SELDOM == Self::SELDOM - 1
    }

    /// So many blocks differed where it was asked, and so many of them in noise only.
    pub fn note(&self, differing: usize, patched: usize) {
        if differing == 0 {
            return;
        }
        let part = u32::try_from(1000 * patched / differing).unwrap_or(1000);
        let before = self.part.load(Ordering::Relaxed);
        self.part
            .store(before - before / 8 + part / 8, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dense_differences_show_after_some_ranges_and_go_again() {
        let density = Density::default();
        assert!(!density.is_high());
        for _ in 0..16 {
            density.note(64, 64);
        }
        assert!(density.is_high());
        for _ in 0..16 {
            density.note(64, 0);
        }
        assert!(!density.is_high());
    }

    #[test]
    fn noise_is_looked_for_while_there_is_some_and_now_and_then_otherwise() {
        let noise = Noise::default();
        let asked = |noise: &Noise| (0..160).filter(|_| noise.is_worth_asking()).count();
        assert_eq!(asked(&noise), 160);
        for _ in 0..40 {
            noise.note(100, 0);
            noise.note(0, 0);
        }
        assert_eq!(asked(&noise), 10);
        noise.note(100, 90);
        assert_eq!(asked(&noise), 160);
    }
}
