//! The Mersenne Twister. Matsumoto and Nishimura 1998, "Mersenne Twister: a 623-dimensionally equidistributed uniform
//! pseudo-random number generator", with the authors' initialisation of 2002.

const LEN: usize = 624;
const MIDDLE: usize = 397;

/// mt19937: a generator of 32-bit words in a fixed order. 2.5 KB of state.
///
/// ```
/// use unfog_core::noise::Mt19937;
/// let mut words = Mt19937::new(5489);
/// assert_eq!(words.word(), 3_499_211_612);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mt19937 {
    state: [u32; LEN],
    /// The next word of `state`; `LEN` when all are used.
    next: usize,
}

impl Mt19937 {
    /// The words of a seed.
    pub const fn new(seed: u32) -> Self {
        let mut state = [0; LEN];
        state[0] = seed;
        let mut i = 1;
        while i < LEN {
            let last: u32 = state[i - 1];
            state[i] = (last ^ (last >> 30)).wrapping_mul(1_812_433_253).wrapping_add(i as u32);
            i += 1;
        }
        Self { state, next: LEN }
    }

    /// The next word.
    pub fn word(&mut self) -> u32 {
        if self.next >= LEN {
            self.twist();
        }
        let mut y = self.state[self.next];
        self.next += 1;
        y ^= y >> 11;
        y ^= (y << 7) & 0x9d2c_5680;
        y ^= (y << 15) & 0xefc6_0000;
        y ^ (y >> 18)
    }

    /// The next value from 0 to 1, 1 excluded, as torch makes an f32: the lower 24 bits of a word.
    pub fn uniform(&mut self) -> f32 {
        const TWO_POW_MINUS_24: f32 = 1.0 / (1 << 24) as f32;
        (self.word() & 0x00ff_ffff) as f32 * TWO_POW_MINUS_24
    }

    /// The next f64 from 0 to 1, 1 excluded, as torch makes it: the lower 53 bits of two words, the first one above.
    pub fn wide_uniform(&mut self) -> f64 {
        const TWO_POW_MINUS_53: f64 = 1.0 / (1_u64 << 53) as f64;
        let (high, low) = (u64::from(self.word()), u64::from(self.word()));
        (((high << 32) | low) & ((1 << 53) - 1)) as f64 * TWO_POW_MINUS_53
    }

    /// Leaves out `count` words.
    pub fn skip(&mut self, mut count: u64) {
        loop {
            let left = (LEN - self.next) as u64;
            if count <= left {
                // At most LEN, so the cast keeps it.
                self.next += count as usize;
                return;
            }
            count -= left;
            self.twist();
        }
    }

    /// The next `LEN` words of state, without the final mixing.
    fn twist(&mut self) {
        for i in 0..LEN {
            let pair = (self.state[i] & 0x8000_0000) | (self.state[(i + 1) % LEN] & 0x7fff_ffff);
            let odd = if pair & 1 == 1 { 0x9908_b0df } else { 0 };
            self.state[i] = self.state[(i + MIDDLE) % LEN] ^ (pair >> 1) ^ odd;
        }
        self.next = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_those_of_the_standard() {
        // ISO C++ (rand.predef): word number 10000 of the seed 5489.
        let mut words = Mt19937::new(5489);
        words.skip(9999);
        assert_eq!(words.word(), 4_123_659_995);
    }

    #[test]
    fn skipping_is_drawing_without_looking() {
        for count in [0, 1, 15, 623, 624, 625, 1247, 1248, 5000] {
            for before in [0, 1, 600, 624] {
                let mut drawn = Mt19937::new(7);
                for _ in 0..before + count {
                    drawn.word();
                }
                let mut skipped = Mt19937::new(7);
                skipped.skip(before);
                skipped.skip(count);
                assert_eq!(drawn.word(), skipped.word(), "{before} {count}");
            }
        }
    }

    #[test]
    fn uniforms_stay_below_one() {
        let mut words = Mt19937::new(1);
        assert!((0..100_000).all(|_| (0.0..1.0).contains(&words.uniform())));
        assert!((0..100_000).all(|_| (0.0..1.0).contains(&words.wide_uniform())));
    }
}
