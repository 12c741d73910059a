//! Programs written by hand: one for each thing that a reader would ask about first.
//!
//! Spaces 0 to 2 have mappings, space 3 passes addresses unchanged. Engines 0 to 3 copy: 1 and 2 are functions of one device, 3
//! is on another bus; engine 4 touches.

use super::program::Step;
use portcullis_spec::Access;

/// A program and what it shows.
pub type Program = (&'static str, Vec<Step>);

const PAGE: u64 = 4096;
/// Where data lies, from the start of memory.
const DATA: u64 = 0x20_0000;
const IOVA: u64 = 0x5000_0000;

const fn map(space: usize, iova: u64, page: u64, pages: u64, access: Access) -> Step {
    Step::Map { space, iova, target: DATA + page * PAGE, length: pages * PAGE, access }
}

const fn copy(engine: usize, source: u64, destination: u64, length: u32) -> Step {
    Step::Copy { engine, source: source as u32, destination: destination as u32, length }
}

/// The programs, for a machine whose memory begins at `ram`.
#[must_use]
pub fn programs(ram: u64) -> Vec<Program> {
    const RW: Access = Access::READ_WRITE;
    let data = ram + DATA;
    let attach = |engine, space| Step::Attach { engine, space };
    let unmap = |space, iova, pages| Step::Unmap { space, iova, length: pages * PAGE };
    let protect = |space, iova, pages, access| Step::Protect { space, iova, length: pages * PAGE, access };
    vec![
        (
            "a device that is attached to nothing reaches nothing",
            vec![copy(0, IOVA, IOVA, 16), Step::Touch { read: IOVA, write: IOVA + 8 }],
        ),
        (
            "a device reaches what its space maps, and nothing next to it",
            vec![
                map(0, IOVA, 3, 2, RW),
                attach(0, 0),
                copy(0, IOVA, IOVA + PAGE, 64),
                copy(0, IOVA + 2 * PAGE, IOVA, 64),
                copy(0, IOVA, IOVA - PAGE, 64),
                copy(0, IOVA + 2 * PAGE - 32, IOVA, 64),
                copy(0, IOVA, IOVA + 2 * PAGE - 32, 64),
                copy(0, IOVA - 32, IOVA, 64),
            ],
        ),
        (
            "a copy over many pages goes where each page leads",
            vec![
                map(0, IOVA, 9, 1, RW),
                map(0, IOVA + PAGE, 4, 1, RW),
                map(0, IOVA + 2 * PAGE, 30, 1, RW),
                map(0, IOVA + 16 * PAGE, 40, 3, RW),
                attach(2, 0),
                copy(2, IOVA + 100, IOVA + 16 * PAGE + 7, 2 * PAGE as u32),
            ],
        ),
        (
            "a device reads but does not write what is mapped for reading, and the other way round",
            vec![
                map(0, IOVA, 0, 1, Access::READ),
                map(0, IOVA + PAGE, 1, 1, Access::WRITE),
                attach(1, 0),
                copy(1, IOVA, IOVA + PAGE, 16),
                copy(1, IOVA + PAGE, IOVA, 16),
            ],
        ),
        (
            "an unmapped page is out of reach at once, its neighbours are not",
            vec![
                map(0, IOVA, 0, 4, RW),
                attach(0, 0),
                copy(0, IOVA, IOVA + PAGE, 16),
                unmap(0, IOVA + PAGE, 1),
                copy(0, IOVA, IOVA + PAGE, 16),
                copy(0, IOVA, IOVA + 2 * PAGE, 16),
            ],
        ),
        (
            "an address that is mapped anew leads to its new page",
            vec![
                map(0, IOVA, 0, 1, RW),
                map(0, IOVA + PAGE, 20, 1, RW),
                attach(3, 0),
                copy(3, IOVA, IOVA + PAGE, 16),
                unmap(0, IOVA, 1),
                map(0, IOVA, 5, 1, RW),
                copy(3, IOVA, IOVA + PAGE, 16),
            ],
        ),
        (
            "a right that was taken is gone at once, and one that was given is there",
            vec![
                map(0, IOVA, 0, 2, RW),
                attach(0, 0),
                copy(0, IOVA, IOVA + PAGE, 16),
                protect(0, IOVA + PAGE, 1, Access::READ),
                copy(0, IOVA, IOVA + PAGE, 16),
                protect(0, IOVA + PAGE, 1, RW),
                copy(0, IOVA, IOVA + PAGE, 16),
            ],
        ),
        (
            "devices share a space: what one loses, all lose",
            vec![
                map(0, IOVA, 0, 2, RW),
                attach(0, 0),
                attach(2, 0),
                attach(3, 0),
                copy(0, IOVA, IOVA + PAGE, 16),
                copy(2, IOVA, IOVA + PAGE, 16),
                copy(3, IOVA, IOVA + PAGE, 16),
                unmap(0, IOVA, 1),
                copy(0, IOVA, IOVA + PAGE, 16),
                copy(2, IOVA, IOVA + PAGE, 16),
                copy(3, IOVA, IOVA + PAGE, 16),
            ],
        ),
        (
            "two functions of one device have spaces of their own",
            vec![
                map(0, IOVA, 0, 2, RW),
                map(1, IOVA, 10, 2, RW),
                attach(1, 0),
                attach(2, 1),
                copy(1, IOVA, IOVA + PAGE, 16),
                copy(2, IOVA, IOVA + PAGE, 16),
                unmap(0, IOVA, 2),
                copy(1, IOVA, IOVA + PAGE, 16),
                copy(2, IOVA, IOVA + PAGE, 16),
            ],
        ),
        (
            "a device that changes spaces has nothing left of the first",
            vec![
                map(0, IOVA, 0, 2, RW),
                map(1, IOVA + PAGE, 10, 2, RW),
                attach(0, 0),
                copy(0, IOVA, IOVA + PAGE, 16),
                Step::Attach { engine: 0, space: 1 },
                Step::Detach { engine: 0 },
                copy(0, IOVA, IOVA + PAGE, 16),
                attach(0, 1),
                copy(0, IOVA + PAGE, IOVA + 2 * PAGE, 16),
                copy(0, IOVA, IOVA + PAGE, 16),
                Step::Detach { engine: 0 },
                Step::Detach { engine: 0 },
                attach(0, 0),
                copy(0, IOVA, IOVA + PAGE, 16),
            ],
        ),
        (
            "a hole cut into a large page is a hole of its own size",
            vec![
                Step::Map { space: 0, iova: IOVA, target: DATA, length: 0x20_0000, access: RW },
                attach(0, 0),
                copy(0, IOVA + 5 * PAGE, IOVA + 7 * PAGE, 16),
                unmap(0, IOVA + 7 * PAGE, 1),
                copy(0, IOVA + 5 * PAGE, IOVA + 7 * PAGE, 16),
                copy(0, IOVA + 5 * PAGE, IOVA + 8 * PAGE, 16),
                protect(0, IOVA + 8 * PAGE, 3, Access::READ),
                copy(0, IOVA + 5 * PAGE, IOVA + 8 * PAGE, 16),
                copy(0, IOVA + 5 * PAGE, IOVA + 11 * PAGE, 16),
            ],
        ),
        (
            "what can't be mapped changes nothing",
            vec![
                map(0, IOVA, 0, 2, RW),
                attach(0, 0),
                map(0, IOVA + PAGE, 8, 3, RW),
                map(0, IOVA + 0x800, 8, 1, RW),
                map(0, 0xfee0_0000, 8, 1, RW),
                map(0, 0xfedf_f000, 8, 2, RW),
                map(0, 1 << 50, 8, 1, RW),
                Step::Map { space: 0, iova: IOVA + 8 * PAGE, target: DATA, length: 0, access: RW },
                copy(0, IOVA, IOVA + PAGE, 16),
                copy(0, IOVA, IOVA + 2 * PAGE, 16),
                map(3, IOVA, 0, 1, RW),
            ],
        ),
        (
            "high addresses are no low ones",
            vec![
                map(0, 0x3f_ffff_e000, 3, 2, RW),
                attach(4, 0),
                Step::Touch { read: 0x3f_ffff_f000, write: 0x3f_ffff_e008 },
                Step::Touch { read: 0x1f_ffff_f000, write: 0x3f_ffff_e088 },
                Step::Touch { read: 0x3f_ffff_e800, write: 0x40_0000_0008 },
                Step::Touch { read: 0x1_003f_ffff_e800, write: 0x3f_ffff_e108 },
                Step::Touch { read: 0x3f_ffff_e800, write: 0xffff_003f_ffff_e108 },
            ],
        ),
        (
            "in an identity space addresses are physical",
            vec![attach(1, 3), copy(1, data + 64, data + 3 * PAGE, 48), attach(0, 0), copy(0, data, data, 4)],
        ),
    ]
}
