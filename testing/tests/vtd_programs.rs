//! The driver over QEMU's VT-d, in random programs.

use portcullis_testing::machine::MachineError;
use portcullis_testing::machine::vtd::Mode;
use portcullis_testing::oracle::Failure;
use portcullis_testing::oracle::vtd::programs;
use portcullis_testing::qtest::QemuError;

#[test]
fn random_programs_do_what_they_say() {
    for mode in Mode::ALL {
        let start = std::time::Instant::now();
        match programs::random(mode, std::env::var("N").ok().and_then(|n| n.parse().ok()).unwrap_or(240), 1) {
            Ok(tally) => println!("{mode:?} {} {:?}", tally.checks, start.elapsed()),
            Err(Failure::Machine(MachineError::Qemu(QemuError::Absent { program }))) => {
                println!("skipped: {program} is not installed");
            }
            Err(failure) => panic!("{failure}"),
        }
    }
}
