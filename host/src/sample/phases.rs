//! Controls for a part of a run: which of them count in which evaluation of the network.

use std::str::FromStr;

use unfog_core::denoise::{Cond, Denoise};

use crate::error::Error;

/// The part of a run in which a control counts: its ends as shares of the run's evaluations, from 0 to 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Share {
    /// Where it begins.
    pub start: f64,
    /// Where it ends.
    pub end: f64,
}

impl Share {
    /// All of a run.
    pub const ALL: Self = Self { start: 0.0, end: 1.0 };

    /// Whether evaluation `i` of `n` lies within, by diffusers' rule (`control_guidance_start`, `control_guidance_end`).
    fn holds(self, i: usize, n: usize) -> bool {
        let (i, n) = (i as f64, n as f64);
        i / n >= self.start && (i + 1.0) / n <= self.end
    }

    /// Whether it is a part of a run.
    pub(super) fn is_valid(self) -> bool {
        self.start >= 0.0 && self.start < self.end && self.end <= 1.0
    }
}

impl FromStr for Share {
    type Err = Error;

    /// Reads `START:END`.
    fn from_str(text: &str) -> Result<Self, Error> {
        let ends = text.split_once(':').and_then(|(a, b)| Some((a.trim().parse().ok()?, b.trim().parse().ok()?)));
        match ends.map(|(start, end)| Self { start, end }) {
            Some(share) if share.is_valid() => Ok(share),
            _ => Err(Error::usage(format!("{text:?} is no part of the steps"))
                .hint("give two shares from 0 to 1, in order, as in 0:0.5")),
        }
    }
}

/// The evaluations of a run by the controls that count in them.
pub(super) struct Phases {
    /// For each kind of evaluation, whether each control counts.
    kinds: Vec<Vec<bool>>,
    /// The kind of each evaluation.
    of: Vec<usize>,
}

impl Phases {
    /// A run of so many evaluations with a control for each of `shares`.
    pub(super) fn new(shares: &[Share], evaluations: usize) -> Self {
        let (mut kinds, mut of) = (Vec::new(), Vec::new());
        for i in 0..evaluations.max(1) {
            let kind: Vec<bool> = shares.iter().map(|share| share.holds(i, evaluations)).collect();
            of.push(kinds.iter().position(|known| *known == kind).unwrap_or(kinds.len()));
            if of.last() == Some(&kinds.len()) {
                kinds.push(kind);
            }
        }
        Self { kinds, of }
    }

    /// Each kind of evaluation: whether each control counts.
    pub(super) fn kinds(&self) -> &[Vec<bool>] {
        &self.kinds
    }
}

/// A network whose conditions change from evaluation to evaluation: those that are loaded first, of the first kind, stand for all.
pub(super) struct Phased<'n, D> {
    network: &'n mut D,
    phases: Phases,
    /// Conditions of a kind.
    loaded: u32,
    /// Evaluations that were made.
    made: usize,
}

impl<'n, D> Phased<'n, D> {
    /// `network` with so many conditions loaded for each kind of `phases`, one kind after the other.
    pub(super) fn new(network: &'n mut D, phases: Phases, loaded: u32) -> Self {
        Self { network, phases, loaded, made: 0 }
    }
}

impl<D: Denoise> Denoise for Phased<'_, D> {
    type Error = D::Error;

    fn out_len(&self) -> usize {
        self.network.out_len()
    }

    fn predict(&mut self, x: &[f32], t: f32, conds: &[Cond], out: &mut [f32]) -> Result<(), D::Error> {
        // Batches are runs of their own.
        let kind = self.phases.of.get(self.made % self.phases.of.len().max(1)).copied().unwrap_or(0);
        self.made += 1;
        let later = kind as u32 * self.loaded;
        let shifted = |cond: &Cond| match cond {
            Cond::Loaded(i) => Cond::Loaded(i + later),
            other => *other,
        };
        match later {
            0 => self.network.predict(x, t, conds, out),
            _ => self.network.predict(x, t, &conds.iter().map(shifted).collect::<Vec<_>>(), out),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Keeps what it was asked for.
    struct Asked(Vec<Vec<Cond>>);

    impl Denoise for Asked {
        type Error = std::convert::Infallible;

        fn out_len(&self) -> usize {
            1
        }

        fn predict(&mut self, _: &[f32], _: f32, conds: &[Cond], _: &mut [f32]) -> Result<(), Self::Error> {
            self.0.push(conds.to_vec());
            Ok(())
        }
    }

    #[test]
    fn shares_are_read() {
        assert_eq!("0:0.5".parse::<Share>().unwrap(), Share { start: 0.0, end: 0.5 });
        for text in ["0.5", "0.5:0.5", "0.6:0.5", "-0.1:1", "0:1.1", "nan:1", "0:nan", "a:b", ""] {
            assert_eq!(text.parse::<Share>().unwrap_err().exit_code(), 2, "{text}");
        }
    }

    #[test]
    fn evaluations_are_those_of_diffusers() {
        // [1 - float(i / n < s or (i + 1) / n > e) for i in range(n)]
        let of = |start, end, n| Phases::new(&[Share { start, end }], n);
        let on = |start, end, n| {
            let phases = of(start, end, n);
            phases.of.iter().map(|&kind| u8::from(phases.kinds[kind][0])).collect::<Vec<_>>()
        };
        assert_eq!(on(0.0, 1.0, 3), [1, 1, 1]);
        assert_eq!(on(0.0, 0.5, 4), [1, 1, 0, 0]);
        assert_eq!(on(0.0, 0.5, 5), [1, 1, 0, 0, 0]);
        assert_eq!(on(0.3, 0.9, 5), [0, 0, 1, 1, 0]);
        assert_eq!(of(0.0, 1.0, 5).kinds().len(), 1);
        assert_eq!(Phases::new(&[], 5).kinds(), [Vec::<bool>::new()]);
    }

    #[test]
    fn conditions_follow_the_evaluations() {
        let shares = [Share { start: 0.0, end: 0.5 }, Share::ALL];
        let mut asked = Asked(Vec::new());
        let mut network = Phased::new(&mut asked, Phases::new(&shares, 2), 3);
        for _ in 0..4 {
            let conds = [Cond::Loaded(2), Cond::None];
            let Ok(()) = network.predict(&[], 0.0, &conds, &mut []);
        }
        let loaded = asked.0.iter().map(|conds| (conds[0], conds[1])).collect::<Vec<_>>();
        let of = |i| (Cond::Loaded(i), Cond::None);
        assert_eq!(loaded, [of(2), of(5), of(2), of(5)]);
    }
}
