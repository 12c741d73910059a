//! Hand-made tables of the RISC-V IOMMU before our model, judged by the reference: both formats of device contexts, and MSI page
//! tables.

use portcullis_testing::oracle::riscv::judge::Riscv;
use portcullis_testing::oracle::riscv::model_tables;
use portcullis_testing::oracle::tables::random_bits;

#[test]
fn the_model_does_what_the_reference_says() {
    for big_endian in [false, true] {
        let tally = model_tables::run(big_endian, 1500, 0x5eed).unwrap();
        assert_eq!(tally.by_reference, 1500);
    }
}

#[test]
fn random_bits_do_what_the_reference_says() {
    random_bits::run::<Riscv>(20_000, 7).unwrap();
}
