//! `portcullis decode entry`.

use clap::ValueEnum;
use portcullis_spec::{
    amdvi::{
        device_table::DeviceTableEntry,
        interrupt::{Irte32, Irte128},
        paging::HostPageTableEntry,
    },
    riscv::{
        device::{DeviceContext, DeviceDirectoryEntry},
        msi::{MsiPteBasic, MsiPteMrif, MsiPteNotice},
        process::ProcessContext,
    },
    smmuv3::{
        cd::{Cd, L1Cd},
        ste::{L1Std, Ste},
    },
    vtd::{
        context::{ContextEntry, ScalableContextEntry},
        interrupt::Irte,
        paging::{FirstStageEntry, SecondStageEntry},
        pasid::{PasidDirectoryEntry, PasidEntry},
        root::{RootEntry, ScalableRootEntry},
    },
};

use super::{fields::Decoded, hexadecimal};
use crate::{
    exit::{Exit, Failure},
    output::Output,
};

/// Say what an entry of a table in memory is, bit by bit.
#[derive(clap::Args)]
pub(super) struct Args {
    /// Which kind of entry.
    format: Format,
    /// The entry's 64-bit words, hexadecimal, lowest address first; missing ones at the end count as 0.
    #[arg(required = true, num_args = 1..=8, value_parser = hexadecimal)]
    words: Vec<u64>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(super) enum Format {
    /// VT-d root entry, 2 words.
    VtdRoot,
    /// VT-d root entry in scalable mode, 2 words.
    VtdScalableRoot,
    /// VT-d context entry, 2 words.
    VtdContext,
    /// VT-d context entry in scalable mode, 4 words.
    VtdScalableContext,
    /// VT-d PASID directory entry.
    VtdPasidDirectory,
    /// VT-d PASID table entry, 8 words.
    VtdPasid,
    /// VT-d first-stage paging entry (x86-64).
    VtdFirstStage,
    /// VT-d second-stage paging entry.
    VtdSecondStage,
    /// VT-d interrupt remapping table entry, 2 words.
    VtdIrte,
    /// AMD-Vi device table entry, 4 words.
    AmdDte,
    /// AMD-Vi host page-table entry.
    AmdPte,
    /// AMD-Vi interrupt entry of 32 bits.
    AmdIrte32,
    /// AMD-Vi interrupt entry of 128 bits, 2 words.
    AmdIrte128,
    /// SMMUv3 stream table entry, 8 words.
    SmmuSte,
    /// SMMUv3 level-1 stream table descriptor.
    SmmuL1Std,
    /// SMMUv3 context descriptor, 8 words.
    SmmuCd,
    /// SMMUv3 level-1 context descriptor.
    SmmuL1Cd,
    /// Arm VMSAv8-64 stage-1 descriptor.
    ArmStage1,
    /// Arm VMSAv8-64 stage-2 descriptor.
    ArmStage2,
    /// RISC-V device context, 4 or 8 words.
    RiscvDc,
    /// RISC-V device-directory-table entry.
    RiscvDdte,
    /// RISC-V process context, 2 words.
    RiscvPc,
    /// RISC-V MSI page-table entry, 2 words.
    RiscvMsiPte,
    /// RISC-V page-table entry (Sv39, Sv48, Sv57).
    RiscvPte,
}

impl Format {
    /// How many words an entry has.
    const fn words(self) -> usize {
        match self {
            Self::VtdRoot
            | Self::VtdScalableRoot
            | Self::VtdContext
            | Self::VtdIrte
            | Self::AmdIrte128
            | Self::RiscvPc
            | Self::RiscvMsiPte => 2,
            Self::VtdScalableContext | Self::AmdDte => 4,
            Self::VtdPasid | Self::SmmuSte | Self::SmmuCd | Self::RiscvDc => 8,
            _ => 1,
        }
    }
}

pub(super) fn run(arguments: &Args, output: &mut Output) -> Result<Exit, Failure> {
    let allowed = arguments.format.words();
    if arguments.words.len() > allowed {
        return Err(Failure::usage(format!(
            "{} words are too many: this entry has {allowed}",
            arguments.words.len()
        )));
    }
    let mut words = [0; 8];
    words[..arguments.words.len()].copy_from_slice(&arguments.words);
    let decoded = decode(arguments.format, words)?;
    output.show(&decoded, |decoded, out| decoded.write(out))?;
    Ok(Exit::Done)
}

fn decode(format: Format, words: [u64; 8]) -> Result<Decoded, Failure> {
    let [first, second, third, fourth, ..] = words;
    let two = [first, second];
    let four = [first, second, third, fourth];
    let hex = |value: u64| format!("{value:#x}");
    Ok(match format {
        Format::VtdRoot => {
            let entry = RootEntry::decode(two);
            Decoded::new("VT-d root entry (VT-d 9.1)").word("vtd", &entry.low)
        }
        Format::VtdScalableRoot => {
            let entry = ScalableRootEntry::decode(two);
            Decoded::new("VT-d root entry in scalable mode (VT-d 9.2): lower half of the bus, then upper")
                .word("vtd", &entry.lower)
                .word("vtd", &entry.upper)
        }
        Format::VtdContext => {
            let entry = ContextEntry::decode(two);
            Decoded::new("VT-d context entry (VT-d 9.3)")
                .word("vtd", &entry.low)
                .word("vtd", &entry.high)
                .with(
                    "second_stage_table",
                    hex(entry.second_stage_table()),
                    "Address of the second-stage root table.",
                )
        }
        Format::VtdScalableContext => {
            let entry = ScalableContextEntry::decode(four);
            Decoded::new("VT-d context entry in scalable mode (VT-d 9.4)")
                .word("vtd", &entry.low)
                .word("vtd", &entry.high)
        }
        Format::VtdPasidDirectory => {
            let entry = PasidDirectoryEntry::from_bits(first);
            Decoded::new("VT-d PASID directory entry (VT-d 9.5)").word("vtd", &entry).with(
                "pasid_table",
                hex(entry.pasid_table()),
                "Address of the PASID table.",
            )
        }
        Format::VtdPasid => {
            let entry = PasidEntry::decode(words);
            Decoded::new("VT-d PASID table entry (VT-d 9.6)")
                .word("vtd", &entry.word0)
                .word("vtd", &entry.word1)
                .word("vtd", &entry.word2)
        }
        Format::VtdFirstStage => Decoded::new("VT-d first-stage paging entry (VT-d 9.7)")
            .word("vtd", &FirstStageEntry::from_bits(first)),
        Format::VtdSecondStage => Decoded::new("VT-d second-stage paging entry (VT-d 9.8)")
            .word("vtd", &SecondStageEntry::from_bits(first)),
        Format::VtdIrte => match Irte::decode(two) {
            Irte::Remapped { low, high } => {
                Decoded::new("VT-d interrupt entry, remapped (VT-d 9.9)").word("vtd", &low).word("vtd", &high)
            }
            entry @ Irte::Posted { low, high } => Decoded::new("VT-d interrupt entry, posted (VT-d 9.10)")
                .word("vtd", &low)
                .word("vtd", &high)
                .with(
                    "posted_descriptor",
                    hex(entry.posted_descriptor().unwrap_or_default()),
                    "Address of the posted-interrupt descriptor.",
                ),
        },
        Format::AmdDte => {
            let entry = DeviceTableEntry::decode(four);
            Decoded::new("AMD-Vi device table entry (AMD I/O Virtualization 2.2.2)")
                .word("amdvi", &entry.q0)
                .word("amdvi", &entry.q1)
                .word("amdvi", &entry.q2)
                .word("amdvi", &entry.q3)
                .with("host_page_table", hex(entry.host_page_table()), "Address of the host page table.")
                .with("guest_cr3_table", hex(entry.guest_cr3_table()), "Address of the guest CR3 table.")
                .with("interrupt_table", hex(entry.interrupt_table()), "Address of the interrupt table.")
        }
        Format::AmdPte => Decoded::new("AMD-Vi host page-table entry (AMD I/O Virtualization 2.2.3)")
            .word("amdvi", &HostPageTableEntry::from_bits(first)),
        Format::AmdIrte32 => {
            let word = u32::try_from(first).map_err(|_| Failure::usage("this entry has 32 bits"))?;
            Decoded::new("AMD-Vi interrupt entry of 32 bits (AMD I/O Virtualization 2.2.5.1)")
                .word("amdvi", &Irte32::from_bits(word))
        }
        Format::AmdIrte128 => {
            let entry = Irte128::decode(two);
            match entry {
                Irte128::Remapped(low, high) => {
                    Decoded::new("AMD-Vi interrupt entry of 128 bits (AMD I/O Virtualization 2.2.5.2)")
                        .word("amdvi", &low)
                        .word("amdvi", &high)
                }
                Irte128::Guest(low, high) => {
                    Decoded::new("AMD-Vi interrupt entry to a guest's APIC (AMD I/O Virtualization 2.2.5.3)")
                        .word("amdvi", &low)
                        .word("amdvi", &high)
                }
            }
            .with("destination", hex(entry.destination().into()), "APIC ID.")
        }
        Format::SmmuSte => {
            let entry = Ste::decode(words);
            Decoded::new("SMMUv3 stream table entry (SMMUv3 5.2)")
                .word("smmuv3", &entry.q0)
                .word("smmuv3", &entry.q1)
                .word("smmuv3", &entry.q2)
                .word("smmuv3", &entry.q3)
                .word("smmuv3", &entry.q4)
                .word("smmuv3", &entry.q5)
                .word("smmuv3", &entry.q6)
                .with(
                    "context_descriptors",
                    hex(entry.context_descriptors()),
                    "Address of the context descriptors.",
                )
                .with("stage2_table", hex(entry.stage2_table()), "Address of the stage-2 table.")
        }
        Format::SmmuL1Std => {
            let entry = L1Std::from_bits(first);
            Decoded::new("SMMUv3 level-1 stream table descriptor (SMMUv3 5.1)")
                .word("smmuv3", &entry)
                .with("table", hex(entry.table()), "Address of the level-2 table.")
                .with("entries", entry.entries().to_string(), "Entries of the level-2 table.")
        }
        Format::SmmuCd => {
            let entry = Cd::decode(words);
            Decoded::new("SMMUv3 context descriptor (SMMUv3 5.4)")
                .word("smmuv3", &entry.q0)
                .word("smmuv3", &entry.q1)
                .word("smmuv3", &entry.q2)
                .word("smmuv3", &entry.q3)
                .word("smmuv3", &entry.q4)
                .word("smmuv3", &entry.q5)
                .with("table0", hex(entry.table0()), "Address of TTB0's table.")
                .with("table1", hex(entry.table1()), "Address of TTB1's table.")
        }
        Format::SmmuL1Cd => {
            let entry = L1Cd::from_bits(first);
            Decoded::new("SMMUv3 level-1 context descriptor (SMMUv3 5.3)").word("smmuv3", &entry).with(
                "table",
                hex(entry.table()),
                "Address of the level-2 table.",
            )
        }
        Format::ArmStage1 => arm(first, true),
        Format::ArmStage2 => arm(first, false),
        Format::RiscvDc => {
            let entry = DeviceContext::decode(words);
            Decoded::new("RISC-V device context (RISC-V IOMMU 2.1.3)")
                .word("riscv", &entry.tc)
                .word("riscv", &entry.iohgatp)
                .word("riscv", &entry.ta)
                .word("riscv", &entry.fsc)
                .word("riscv", &entry.msiptp)
                .word("riscv", &entry.msi_addr_mask)
                .word("riscv", &entry.msi_addr_pattern)
        }
        Format::RiscvDdte => Decoded::new("RISC-V device-directory-table entry (RISC-V IOMMU 2.1.1)")
            .word("riscv", &DeviceDirectoryEntry::from_bits(first)),
        Format::RiscvPc => {
            let entry = ProcessContext::decode(two);
            Decoded::new("RISC-V process context (RISC-V IOMMU 2.2.2)")
                .word("riscv", &entry.ta)
                .word("riscv", &entry.fsc)
        }
        Format::RiscvMsiPte => {
            let basic = MsiPteBasic::from_bits(first);
            if basic.m() == 1 {
                Decoded::new("RISC-V MSI page-table entry, memory-resident interrupt file (AIA 9.5)")
                    .word("riscv", &MsiPteMrif::from_bits(first))
                    .word("riscv", &MsiPteNotice::from_bits(second))
            } else {
                Decoded::new("RISC-V MSI page-table entry, basic (AIA 9.5)").word("riscv", &basic)
            }
        }
        Format::RiscvPte => riscv(first),
    })
}

/// A field of a paging entry that no type of the specification's crate holds: its name, highest and lowest bit, and what it is.
type Bits = (&'static str, u32, u32, &'static str);

fn bits(what: &str, word: u64, fields: &[Bits]) -> Decoded {
    fields.iter().fold(Decoded::new(what), |decoded, (name, high, low, meaning)| {
        let value = word >> low & (u64::MAX >> (63 - (high - low)));
        let shown = if value < 10 { value.to_string() } else { format!("{value:#x}") };
        decoded.with(name, shown, *meaning)
    })
}

fn arm(word: u64, first_stage: bool) -> Decoded {
    let table = word & 3 == 3;
    let mut decoded = bits(
        if first_stage {
            "Arm VMSAv8-64 stage-1 descriptor (Arm ARM D8.3)"
        } else {
            "Arm VMSAv8-64 stage-2 descriptor (Arm ARM D8.3)"
        },
        word,
        &[
            ("valid", 0, 0, "Valid."),
            ("type", 1, 1, "1: a table (levels 0 to 2) or a page (level 3). 0: a block (levels 1 and 2)."),
        ],
    );
    let rights: &[Bits] = if first_stage {
        &[
            ("attrindx", 4, 2, "Memory attribute: index into MAIR."),
            ("ns", 5, 5, "Non-secure."),
            (
                "ap",
                7,
                6,
                "Access: 0 privileged read-write, 1 all read-write, 2 privileged read-only, 3 all read-only.",
            ),
        ]
    } else {
        &[("memattr", 5, 2, "Memory attribute."), ("s2ap", 7, 6, "Access: 0 none, 1 read, 2 write, 3 both.")]
    };
    let rest: &[Bits] = &[
        ("sh", 9, 8, "Shareability: 0 none, 2 outer, 3 inner."),
        ("af", 10, 10, "Access flag."),
        ("output_address", 47, 12, "Page, block or table, as a 4 KiB page number."),
        ("dbm", 51, 51, "Dirty bit modifier."),
        ("contiguous", 52, 52, "One of several that map one range."),
        ("pxn", 53, 53, if first_stage { "Privileged execute never." } else { "Execute never, bit 0." }),
        ("xn", 54, 54, if first_stage { "Unprivileged execute never." } else { "Execute never, bit 1." }),
        ("software", 58, 55, "Software's own."),
    ];
    let upper: &[Bits] = &[
        ("pxntable", 59, 59, "Table: privileged execute never below."),
        ("xntable", 60, 60, "Table: execute never below."),
        ("aptable", 62, 61, "Table: access limits below: bit 0 no unprivileged, bit 1 no writes."),
        ("nstable", 63, 63, "Table: non-secure below."),
    ];
    decoded.fields.extend(bits("", word, rights).fields);
    if first_stage {
        decoded.fields.extend(bits("", word, &[("ng", 11, 11, "Not global.")]).fields);
    }
    decoded.fields.extend(bits("", word, rest).fields);
    if first_stage && table {
        decoded.fields.extend(bits("", word, upper).fields);
    }
    decoded.with(
        "address",
        format!("{:#x}", word & 0x0000_ffff_ffff_f000),
        "Output address, where pages have 4 KiB and addresses at most 48 bits.",
    )
}

fn riscv(word: u64) -> Decoded {
    bits(
        "RISC-V page-table entry (Privileged 12.4)",
        word,
        &[
            ("v", 0, 0, "Valid."),
            ("r", 1, 1, "Readable; with w and x clear too, a pointer to the next table."),
            ("w", 2, 2, "Writable."),
            ("x", 3, 3, "Executable."),
            ("u", 4, 4, "For users; always set in second-stage leaves."),
            ("g", 5, 5, "Global."),
            ("a", 6, 6, "Accessed."),
            ("d", 7, 7, "Dirty."),
            ("rsw", 9, 8, "Software's own."),
            ("ppn", 53, 10, "Page number."),
            ("reserved", 60, 54, "Reserved."),
            ("pbmt", 62, 61, "Memory type: 0 as the platform says, 1 non-cacheable, 2 I/O (Svpbmt)."),
            ("n", 63, 63, "Naturally aligned power of two (Svnapot)."),
        ],
    )
    .with("address", format!("{:#x}", (word >> 10 & 0xfff_ffff_ffff) << 12), "Output address.")
}
