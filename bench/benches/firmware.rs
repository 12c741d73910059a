//! Firmware tables: all tables of real machines read one after the other (issue 5: under 5 ms together), or made-up ones where
//! those are not at hand.

use criterion::{Criterion, criterion_group, criterion_main};
use portcullis_firmware::acpi::{self, Table};
use portcullis_testing::firmware::{generate, tables};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use std::hint::black_box;

fn firmware(criterion: &mut Criterion) {
    let (what, all) = match tables::real() {
        Some(real) => ("real", real.into_iter().map(|(_, bytes)| bytes).collect()),
        None => {
            println!("the tables of real machines (shared/data/acpi) are not here: 125 made-up ones instead");
            let mut random = ChaCha8Rng::seed_from_u64(125);
            let mut make = || {
                let range = generate::Range::Everything;
                generate::Generator::new(&mut random, range).table().write().unwrap_or_default()
            };
            ("made-up", (0..125).map(|_| make()).collect::<Vec<Vec<u8>>>())
        }
    };
    let bytes: usize = all.iter().map(Vec::len).sum();
    let mut group = criterion.benchmark_group(format!("{} {what} tables, {bytes} bytes", all.len()));
    let mut each = |name, read: &dyn Fn(&[u8])| {
        group.bench_function(name, |bencher| {
            bencher.iter(|| all.iter().for_each(|table| read(black_box(table))));
        });
    };
    each("topology", &|table| drop(black_box(acpi::topology(table))));
    each("read as data", &|table| drop(black_box(Table::read(table))));
    each("decode every field", &|table| drop(black_box(acpi::decode(table))));
    group.finish();
}

criterion_group!(benches, firmware);
criterion_main!(benches);
