//! The shortest program that still fails.

/// Remove and simplify steps of `program` as long as `fails` says that what is left still fails.
///
/// First whole stretches go, half the program at a time and then ever shorter ones; then every step is replaced by the
/// first of its simpler forms (`simpler`) with which the program still fails, until nothing changes. `fails` must
/// give the same answer for the same program, and is asked at most `attempts` times.
pub fn shortest<S: Clone>(
    mut program: Vec<S>,
    mut attempts: usize,
    simpler: impl Fn(&S) -> Vec<S>,
    mut fails: impl FnMut(&[S]) -> bool,
) -> Vec<S> {
    let mut ask = |candidate: &[S]| {
        attempts = attempts.saturating_sub(1);
        attempts > 0 && fails(candidate)
    };
    loop {
        let before = program.len();
        let mut stretch = program.len().div_ceil(2).max(1);
        loop {
            let mut start = 0;
            while start < program.len() {
                let end = (start + stretch).min(program.len());
                let candidate = [&program[..start], &program[end..]].concat();
                if !candidate.is_empty() && ask(&candidate) {
                    program = candidate;
                } else {
                    start = end;
                }
            }
            if stretch == 1 {
                break;
            }
            stretch = stretch.div_ceil(2);
        }
        let mut simplified = false;
        for index in 0..program.len() {
            while let Some(simple) = simpler(&program[index]).into_iter().find(|simple| {
                let mut candidate = program.clone();
                candidate[index] = simple.clone();
                ask(&candidate)
            }) {
                program[index] = simple;
                simplified = true;
            }
        }
        if program.len() == before && !simplified {
            return program;
        }
    }
}

/// Simplify `thing` as long as it still fails, by the first of its simpler forms that does.
pub fn simplest<S>(mut thing: S, simpler: impl Fn(&S) -> Vec<S>, mut fails: impl FnMut(&S) -> bool) -> S {
    while let Some(simple) = simpler(&thing).into_iter().find(|simple| fails(simple)) {
        thing = simple;
    }
    thing
}

#[cfg(test)]
mod tests {
    use super::shortest;

    #[test]
    fn only_the_steps_that_matter_are_left_and_as_simple_as_can_be() {
        let program: Vec<u32> = (0..100).collect();
        let halves = |step: &u32| if *step > 0 { vec![step / 2, step - 1] } else { Vec::new() };
        let fails = |steps: &[u32]| {
            let first = steps.iter().position(|step| *step >= 37);
            let second = steps.iter().rposition(|step| *step >= 61);
            first.zip(second).is_some_and(|(first, second)| first < second)
        };
        assert_eq!(shortest(program, 10_000, halves, fails), [37, 61]);
    }

    #[test]
    fn attempts_are_bounded() {
        let mut asked = 0;
        shortest(
            vec![0; 1000],
            50,
            |_| Vec::new(),
            |_| {
                asked += 1;
                true
            },
        );
        assert!(asked < 50);
    }
}
