//! The IOVA allocator against a list of pages.

use std::collections::BTreeSet;

use portcullis_driver::Prefer;
use portcullis_driver::common::iova::{IovaAllocator, IovaError};
use portcullis_spec::Iova;
use proptest::prelude::*;

const PAGE: u64 = 0x1000;
/// Pages of the window in the random runs, from page 3 on.
const PAGES: u64 = 61;

#[derive(Clone, Debug)]
enum Step {
    Allocate { pages: u64, last: u64, high: bool },
    Free(usize),
    Reserve { first: u64, pages: u64 },
    Unreserve(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (1u64..9, 0u64..80, any::<bool>())
            .prop_map(|(pages, last, high)| Step::Allocate { pages, last, high }),
        3 => any::<usize>().prop_map(Step::Free),
        1 => (0u64..70, 1u64..9).prop_map(|(first, pages)| Step::Reserve { first, pages }),
        1 => any::<usize>().prop_map(Step::Unreserve),
    ];
    proptest::collection::vec(step, 1..120)
}

fn pages(first: u64, count: u64) -> impl Iterator<Item = u64> {
    first..first + count
}

proptest! {
    #[test]
    fn allocates_what_a_list_of_free_pages_would(steps in steps()) {
        let mut allocator = IovaAllocator::new(Iova(3 * PAGE), Iova((3 + PAGES) * PAGE - 1), 12);
        let window: BTreeSet<u64> = pages(3, PAGES).collect();
        let mut free = window.clone();
        let mut allocated: Vec<(u64, u64)> = Vec::new();
        let mut reserved: Vec<(u64, u64)> = Vec::new();
        for step in steps {
            match step {
                Step::Allocate { pages: count, last, high } => {
                    let align = count.next_power_of_two();
                    // Aligned to the size rounded up, and wholly free with the rounding: the buddy's condition.
                    let fits = |start: &u64| {
                        start.is_multiple_of(align)
                            && start + count - 1 <= last
                            && pages(*start, count).all(|page| free.contains(&page))
                    };
                    let any = (0..80).find(fits);
                    let whole = |start: &u64| fits(start) && pages(*start, align).all(|page| free.contains(&page));
                    let prefer = if high { Prefer::High } else { Prefer::Low };
                    let expected = if high { (0..80).rev().find(whole) } else { (0..80).find(whole) };
                    let limit = Iova((last + 1) * PAGE - 1);
                    match allocator.allocate(count * PAGE, limit, prefer) {
                        Ok(iova) => {
                            let start = iova.0 / PAGE;
                            prop_assert!(fits(&start));
                            prop_assert_eq!(Some(start), expected);
                            pages(start, count).for_each(|page| { free.remove(&page); });
                            allocated.push((start, count));
                        }
                        Err(error) => {
                            prop_assert_eq!(error, IovaError::Exhausted { size: count * PAGE, last: limit });
                            prop_assert_eq!(expected, None, "but {:?}", any);
                        }
                    }
                }
                Step::Free(index) if !allocated.is_empty() => {
                    let (start, count) = allocated.swap_remove(index % allocated.len());
                    let iova = Iova(start * PAGE);
                    prop_assert!(allocator.retire(iova, (count + 1) * PAGE).is_err());
                    allocator.retire(iova, count * PAGE).unwrap();
                    prop_assert!(allocator.retire(iova, count * PAGE).is_err());
                    allocator.release(iova, count * PAGE);
                    free.extend(pages(start, count));
                }
                Step::Reserve { first, pages: count } => {
                    let within: Vec<u64> =
                        pages(first, count).filter(|page| window.contains(page)).collect();
                    let expected = within.iter().all(|page| free.contains(page));
                    let (from, to) = (Iova(first * PAGE), Iova((first + count) * PAGE - 1));
                    prop_assert_eq!(allocator.reserve(from, to).is_ok(), expected);
                    if expected {
                        within.iter().for_each(|page| { free.remove(page); });
                        reserved.push((first, count));
                    }
                }
                Step::Unreserve(index) if !reserved.is_empty() => {
                    let (first, count) = reserved.swap_remove(index % reserved.len());
                    allocator.unreserve(Iova(first * PAGE), Iova((first + count) * PAGE - 1));
                    free.extend(pages(first, count).filter(|page| window.contains(page)));
                }
                Step::Free(_) | Step::Unreserve(_) => {}
            }
            prop_assert_eq!(allocator.live(), allocated.len());
        }
    }
}

#[test]
fn low_comes_before_high_and_the_ends_are_reached() {
    let mut allocator = IovaAllocator::new(Iova(0), Iova(u64::MAX), 12);
    let all = Iova(u64::MAX);
    // Page zero is nobody's.
    assert_eq!(allocator.allocate(PAGE, all, Prefer::Low), Ok(Iova(PAGE)));
    assert_eq!(allocator.allocate(PAGE, all, Prefer::High), Ok(Iova(0u64.wrapping_sub(PAGE))));
    assert_eq!(allocator.allocate(PAGE, Iova(0xffff_ffff), Prefer::High), Ok(Iova(0xffff_f000)));
    assert_eq!(allocator.allocate(PAGE + 1, all, Prefer::Low), Err(IovaError::Size { size: PAGE + 1 }));
    assert_eq!(allocator.allocate(0, all, Prefer::Low), Err(IovaError::Size { size: 0 }));
    assert!(matches!(allocator.allocate(!0xfff, all, Prefer::Low), Err(IovaError::Exhausted { .. })));
    assert!(matches!(allocator.allocate(PAGE, Iova(0xfff), Prefer::Low), Err(IovaError::Exhausted { .. })));
}
