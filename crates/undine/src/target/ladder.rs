//! Which type each tensor gets: from the smallest file upwards, the next byte goes where it saves most.
//!
//! Losses of tensors are taken to add up. Then for every size the least loss is near the lower convex hull of
//! each tensor's types, and one order of steps serves all sizes: those that save most per byte come first
//! (the greedy solution of the continuous knapsack problem).

use undine_core::DType;

/// A type that a tensor could have.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Candidate {
    /// The type.
    pub dtype: DType,
    /// Bytes of the tensor in it, with the padding of the file.
    pub bytes: u64,
    /// What it costs: KL divergence in nats per token, measured or predicted.
    pub loss: f64,
}

/// All choices that are worth considering, from the smallest to the largest.
pub struct Ladder {
    /// Per tensor, the candidates on its hull: bytes ascend, losses descend.
    hulls: Vec<Vec<Candidate>>,
    /// Which tensor goes up its hull, step by step.
    steps: Vec<usize>,
}

impl Ladder {
    /// From each tensor's candidates, in any order; every tensor has at least one.
    pub fn new(candidates: Vec<Vec<Candidate>>) -> Self {
        let hulls: Vec<Vec<Candidate>> = candidates.into_iter().map(hull).collect();
        let mut steps: Vec<(usize, f64)> = Vec::new();
        for (tensor, hull) in hulls.iter().enumerate() {
            steps.extend(hull.windows(2).map(|pair| (tensor, gain(&pair[0], &pair[1]))));
        }
        // A stable sort: gains fall along a hull, so steps of a tensor stay in order.
        steps.sort_by(|a, b| b.1.total_cmp(&a.1));
        Self { hulls, steps: steps.into_iter().map(|(tensor, _)| tensor).collect() }
    }

    /// Number of steps from the smallest choice to the largest.
    pub fn len(&self) -> usize {
        self.steps.len()
    }

    /// The choice after some steps: a candidate per tensor.
    pub fn at(&self, steps: usize) -> Vec<Candidate> {
        let mut place = vec![0; self.hulls.len()];
        self.steps[..steps].iter().for_each(|&tensor| place[tensor] += 1);
        self.hulls.iter().zip(place).map(|(hull, place)| hull[place]).collect()
    }

    /// The choice of least loss of at most so many bytes; `None` if the smallest has more.
    pub fn within(&self, bytes_max: u64) -> Option<Vec<Candidate>> {
        let mut choice = self.at(0);
        let mut bytes: u64 = choice.iter().map(|candidate| candidate.bytes).sum();
        if bytes > bytes_max {
            return None;
        }
        let mut place = vec![0; self.hulls.len()];
        let mut stuck = vec![false; self.hulls.len()];
        for &tensor in &self.steps {
            // After the first step that does not fit, smaller ones further on still may.
            let next = self.hulls[tensor][place[tensor] + usize::from(!stuck[tensor])];
            let more = next.bytes - choice[tensor].bytes;
            if stuck[tensor] || bytes + more > bytes_max {
                stuck[tensor] = true;
                continue;
            }
            place[tensor] += 1;
            choice[tensor] = next;
            bytes += more;
        }
        Some(choice)
    }
}

/// Loss saved per byte.
fn gain(from: &Candidate, to: &Candidate) -> f64 {
    (from.loss - to.loss) / (to.bytes - from.bytes) as f64
}

/// The candidates on the lower convex hull of loss over bytes.
fn hull(mut candidates: Vec<Candidate>) -> Vec<Candidate> {
    candidates.sort_by(|a, b| a.bytes.cmp(&b.bytes).then(a.loss.total_cmp(&b.loss)));
    let mut hull: Vec<Candidate> = Vec::new();
    for candidate in candidates {
        if hull.last().is_some_and(|last| candidate.loss >= last.loss) {
            continue;
        }
        while let [.., before, last] = hull[..]
            && gain(&last, &candidate) >= gain(&before, &last)
        {
            hull.pop();
        }
        hull.push(candidate);
    }
    hull
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensor(losses: &[(u64, f64)]) -> Vec<Candidate> {
        losses.iter().map(|&(bytes, loss)| Candidate { dtype: DType::Q4_0, bytes, loss }).collect()
    }

    fn total(choice: &[Candidate]) -> (u64, f64) {
        choice.iter().fold((0, 0.0), |(bytes, loss), c| (bytes + c.bytes, loss + c.loss))
    }

    #[test]
    fn only_candidates_on_the_hull_count() {
        for (losses, expected) in [
            (&[(10, 1.0)][..], &[10][..]),
            // 20 is above the line from 10 to 30; 40 is no better than 30.
            (&[(10, 8.0), (20, 7.0), (30, 1.0), (40, 1.0)], &[10, 30]),
            (&[(30, 1.0), (10, 8.0), (20, 3.0)], &[10, 20, 30]),
            // Of two with the same size the better one, and no size that is worse than a smaller one.
            (&[(10, 2.0), (10, 1.0), (20, 1.5)], &[10]),
        ] {
            let found: Vec<u64> = hull(tensor(losses)).iter().map(|candidate| candidate.bytes).collect();
            assert_eq!(found, expected, "{losses:?}");
        }
    }

    #[test]
    fn every_size_gets_the_least_loss_near_it() {
        let tensors = vec![
            tensor(&[(10, 9.0), (20, 4.0), (40, 1.0)]),
            tensor(&[(5, 3.0), (10, 2.0), (20, 1.9)]),
            tensor(&[(100, 50.0), (150, 10.0), (300, 1.0)]),
        ];
        let ladder = Ladder::new(tensors.clone());
        for steps in 1..=ladder.len() {
            let (before, after) = (total(&ladder.at(steps - 1)), total(&ladder.at(steps)));
            assert!(after.0 > before.0 && after.1 < before.1);
        }
        assert_eq!(ladder.within(114), None);
        for bytes_max in 115..=360 {
            let choice = ladder.within(bytes_max).expect("the smallest fits");
            let (bytes, loss) = total(&choice);
            assert!(bytes <= bytes_max);
            // All 27 choices: none within the size of the greedy one is better.
            for i in 0..27 {
                let other = [tensors[0][i % 3], tensors[1][i / 3 % 3], tensors[2][i / 9]];
                let (other_bytes, other_loss) = total(&other);
                let at_least =
                    ladder.at((0..=ladder.len()).rfind(|&n| total(&ladder.at(n)).0 <= bytes_max).unwrap());
                if other_bytes <= total(&at_least).0 {
                    assert!(loss <= other_loss + 1e-12, "{bytes_max}: {choice:?}, {other:?}");
                }
            }
        }
        assert_eq!(total(&ladder.within(u64::MAX).unwrap()).0, 360);
    }
}
