//! Raw values taken from others' sources: Linux (`drivers/iommu/intel/{iommu,pasid}.h`, `dmar.c`, `include/linux/dmar.h`),
//! QEMU (`hw/i386/intel_iommu_internal.h`), VirtualBox (`include/VBox/iommu-intel.h`). Names in comments are theirs.

use portcullis_spec::vtd::VtdFaultReason;
use portcullis_spec::vtd::context::{ContextEntry, ScalableContextEntry, TranslationType};
use portcullis_spec::vtd::fault::{FaultRecord, RecordType};
use portcullis_spec::vtd::interrupt::{Irte, RemappableAddress};
use portcullis_spec::vtd::invalidation::{
    ContextCacheScope, DescriptorError, InvalidationDescriptor, IotlbScope, Pages, PasidCacheScope,
};
use portcullis_spec::vtd::page_request::{PageRequest, ResponseCode};
use portcullis_spec::vtd::paging::{FirstStageEntry, SecondStageEntry};
use portcullis_spec::vtd::pasid::{PasidDirectoryEntry, PasidEntry, Pgtt};
use portcullis_spec::vtd::registers::*;
use portcullis_spec::vtd::root::RootEntry;

#[test]
fn offsets() {
    // Linux DMAR_*_REG.
    let expected = [
        (offset::VER, 0x0),
        (offset::CAP, 0x8),
        (offset::ECAP, 0x10),
        (offset::GCMD, 0x18),
        (offset::GSTS, 0x1c),
        (offset::RTADDR, 0x20),
        (offset::CCMD, 0x28),
        (offset::FSTS, 0x34),
        (offset::FECTL, 0x38),
        (offset::FEDATA, 0x3c),
        (offset::FEADDR, 0x40),
        (offset::FEUADDR, 0x44),
        (offset::AFLOG, 0x58),
        (offset::PMEN, 0x64),
        (offset::PLMBASE, 0x68),
        (offset::PLMLIMIT, 0x6c),
        (offset::PHMBASE, 0x70),
        (offset::PHMLIMIT, 0x78),
        (offset::IQH, 0x80),
        (offset::IQT, 0x88),
        (offset::IQA, 0x90),
        (offset::ICS, 0x9c),
        (offset::IECTL, 0xa0),
        (offset::IEDATA, 0xa4),
        (offset::IEADDR, 0xa8),
        (offset::IEUADDR, 0xac),
        (offset::IQERCD, 0xb0),
        (offset::IRTA, 0xb8),
        (offset::PQH, 0xc0),
        (offset::PQT, 0xc8),
        (offset::PQA, 0xd0),
        (offset::PRS, 0xdc),
        (offset::PECTL, 0xe0),
        (offset::PEDATA, 0xe4),
        (offset::PEADDR, 0xe8),
        (offset::PEUADDR, 0xec),
        (offset::MTRRCAP, 0x100),
        (offset::MTRR_PHYSBASE0, 0x180),
        (offset::PERFCAP, 0x300),
        (offset::ECMD, 0x400),
        (offset::ECRSP, 0x410),
        (offset::ECCAP, 0x430),
        (offset::VCCAP, 0xe00),
        (offset::VCMD, 0xe10),
        (offset::VCRSP, 0xe20),
    ];
    for (ours, theirs) in expected {
        assert_eq!(ours, theirs);
    }
}

#[test]
fn capabilities() {
    // VirtualBox VTD_BF_CAP_REG_*_MASK.
    let cap = |f: fn(Cap) -> Cap| f(Cap::new()).into_bits();
    assert_eq!(cap(|c| c.with_nd(7)), 0x7);
    assert_eq!(cap(|c| c.with_afl(true)), 0x8);
    assert_eq!(cap(|c| c.with_rwbf(true)), 0x10);
    assert_eq!(cap(|c| c.with_plmr(true)), 0x20);
    assert_eq!(cap(|c| c.with_phmr(true)), 0x40);
    assert_eq!(cap(|c| c.with_cm(true)), 0x80);
    assert_eq!(cap(|c| c.with_sagaw(0x1f)), 0x1f00);
    assert_eq!(cap(|c| c.with_mgaw(0x3f)), 0x3f_0000);
    assert_eq!(cap(|c| c.with_zlr(true)), 0x40_0000);
    assert_eq!(cap(|c| c.with_fro(0x3ff)), 0x3_ff00_0000);
    assert_eq!(cap(|c| c.with_sslps(0xf)), 0x3c_0000_0000);
    assert_eq!(cap(|c| c.with_psi(true)), 0x80_0000_0000);
    assert_eq!(cap(|c| c.with_nfr(0xff)), 0xff00_0000_0000);
    assert_eq!(cap(|c| c.with_mamv(0x3f)), 0x3f_0000_0000_0000);
    assert_eq!(cap(|c| c.with_dwd(true)), 0x40_0000_0000_0000);
    assert_eq!(cap(|c| c.with_drd(true)), 0x80_0000_0000_0000);
    assert_eq!(cap(|c| c.with_fs1gp(true)), 1 << 56);
    assert_eq!(cap(|c| c.with_pi(true)), 1 << 59);
    assert_eq!(cap(|c| c.with_fs5lp(true)), 1 << 60);
    // Linux cap_ecmds, cap_esirtps, cap_esrtps.
    assert_eq!(cap(|c| c.with_ecmds(true)), 1 << 61);
    assert_eq!(cap(|c| c.with_esirtps(true)), 1 << 62);
    assert_eq!(cap(|c| c.with_esrtps(true)), 1 << 63);
    // Linux ecap_*.
    let ecap = |f: fn(Ecap) -> Ecap| f(Ecap::new()).into_bits();
    assert_eq!(ecap(|e| e.with_c(true)), 1);
    assert_eq!(ecap(|e| e.with_qi(true)), 1 << 1);
    assert_eq!(ecap(|e| e.with_dt(true)), 1 << 2);
    assert_eq!(ecap(|e| e.with_ir(true)), 1 << 3);
    assert_eq!(ecap(|e| e.with_eim(true)), 1 << 4);
    assert_eq!(ecap(|e| e.with_pt(true)), 1 << 6);
    assert_eq!(ecap(|e| e.with_sc(true)), 1 << 7);
    assert_eq!(ecap(|e| e.with_iro(0x3ff)), 0x3_ff00);
    assert_eq!(ecap(|e| e.with_mhmv(0xf)), 0xf << 20);
    assert_eq!(ecap(|e| e.with_mts(true)), 1 << 25);
    assert_eq!(ecap(|e| e.with_nest(true)), 1 << 26);
    assert_eq!(ecap(|e| e.with_prs(true)), 1 << 29);
    assert_eq!(ecap(|e| e.with_ers(true)), 1 << 30);
    assert_eq!(ecap(|e| e.with_srs(true)), 1 << 31);
    assert_eq!(ecap(|e| e.with_nwfs(true)), 1 << 33);
    assert_eq!(ecap(|e| e.with_eafs(true)), 1 << 34);
    assert_eq!(ecap(|e| e.with_pss(0x1f)), 0x1f << 35);
    assert_eq!(ecap(|e| e.with_pasid(true)), 1 << 40);
    assert_eq!(ecap(|e| e.with_dit(true)), 1 << 41);
    assert_eq!(ecap(|e| e.with_pds(true)), 1 << 42);
    assert_eq!(ecap(|e| e.with_smts(true)), 1 << 43);
    assert_eq!(ecap(|e| e.with_vcs(true)), 1 << 44);
    assert_eq!(ecap(|e| e.with_ssads(true)), 1 << 45);
    assert_eq!(ecap(|e| e.with_ssts(true)), 1 << 46);
    assert_eq!(ecap(|e| e.with_fsts(true)), 1 << 47);
    assert_eq!(ecap(|e| e.with_smpwcs(true)), 1 << 48);
    assert_eq!(ecap(|e| e.with_rps(true)), 1 << 49);
    assert_eq!(ecap(|e| e.with_pms(true)), 1 << 51);
    assert_eq!(ecap(|e| e.with_adms(true)), 1 << 52);
    assert_eq!(ecap(|e| e.with_rprivs(true)), 1 << 53);
}

#[test]
fn capabilities_of_qemu() {
    // QEMU 10.0.2, -device intel-iommu,aw-bits=48: ND 6, SAGAW 39 and 48, MGAW 48, FRO 0x220, SLLPS, PSI, MAMV 18.
    let cap = Cap::from_bits(
        6 | 0x600 | 47 << 16 | (0x220 << 20) | (1 << 34) | (1 << 35) | 1 << 39 | 18 << 48 | 3 << 54,
    );
    assert_eq!(cap.domains(), 1 << 16);
    assert_eq!(cap.guest_address_bits(), 48);
    assert_eq!(cap.fault_recording_offset(), 0x220);
    assert_eq!(cap.fault_recording_registers(), 1);
    assert_eq!([3, 4, 5, 6].map(|levels| cap.supports_levels(levels)), [true, true, false, false]);
    // VTD_ECAP_IRO is DMAR_IOTLB_REG_OFFSET << 4.
    assert_eq!(Ecap::from_bits(0xf0 << 4).iotlb_offset(), 0xf0);
    // VTD_ECAP_PSS is 19 << 35, VTD_ECAP_PASID 1 << 40: 20 bits.
    assert_eq!(Ecap::from_bits(19 << 35 | 1 << 40).pasid_bits(), 20);
}

#[test]
fn commands_and_status() {
    // Linux DMA_GCMD_*.
    assert_eq!(Gcmd::new().with_te(true).into_bits(), 1 << 31);
    assert_eq!(Gcmd::new().with_srtp(true).into_bits(), 1 << 30);
    assert_eq!(Gcmd::new().with_sfl(true).into_bits(), 1 << 29);
    assert_eq!(Gcmd::new().with_eafl(true).into_bits(), 1 << 28);
    assert_eq!(Gcmd::new().with_wbf(true).into_bits(), 1 << 27);
    assert_eq!(Gcmd::new().with_qie(true).into_bits(), 1 << 26);
    assert_eq!(Gcmd::new().with_ire(true).into_bits(), 1 << 25);
    assert_eq!(Gcmd::new().with_sirtp(true).into_bits(), 1 << 24);
    assert_eq!(Gcmd::new().with_cfi(true).into_bits(), 1 << 23);
    // Linux DMA_RTADDR_SMT; VirtualBox VTD_TTM_*.
    assert_eq!(Rtaddr::new().with_ttm(Ttm::Scalable).into_bits(), 1 << 10);
    assert_eq!(Rtaddr::new().with_ttm(Ttm::AbortDma).into_bits(), 3 << 10);
    assert_eq!(Rtaddr::from_bits(0x1234_5400).root_table(), 0x1234_5000);
    // Linux DMA_CCMD_*.
    let ccmd =
        Ccmd::new().with_icc(true).with_cirg(CcmdGranularity::Device).with_fm(2).with_sid(0x123).with_did(7);
    assert_eq!(ccmd.into_bits(), 1 << 63 | 3 << 61 | 2 << 32 | 0x123 << 16 | 7);
    // Linux DMA_TLB_*.
    let iotlb = Iotlb::new()
        .with_ivt(true)
        .with_iirg(IotlbGranularity::Domain)
        .with_dr(true)
        .with_dw(true)
        .with_did(9)
        .with_iaig(IotlbGranularity::Page);
    assert_eq!(iotlb.into_bits(), 1 << 63 | 2 << 60 | 1 << 49 | 1 << 48 | 9 << 32 | 3 << 57);
    assert_eq!(Iva::new().with_addr(5).with_ih(true).with_am(6).into_bits(), 0x5000 | 1 << 6 | 6);
    // Linux DMA_FSTS_*.
    let fsts = Fsts::from_bits(0x0302 | 1 << 4 | 1 << 5 | 1 << 6);
    assert!(fsts.ppf() && fsts.iqe() && fsts.ice() && fsts.ite() && !fsts.pfo());
    assert_eq!(fsts.fri(), 3);
    // VirtualBox VTD_FSTS_REG_RW1C_MASK.
    assert_eq!(Fsts::WRITE_1_CLEAR, 1 | 4 | 8 | 0x10 | 0x20 | 0x40);
    assert_eq!(EventControl::new().with_im(true).into_bits(), 1 << 31);
    assert_eq!(EventControl::new().with_ip(true).into_bits(), 1 << 30);
    assert_eq!(Pmen::new().with_epm(true).with_prs(true).into_bits(), 1 << 31 | 1);
    // VirtualBox VTD_BF_IQA_REG_*, VTD_BF_IQH_REG_*.
    assert_eq!(Iqa::new().with_iqa(1).with_dw(true).with_qs(7).into_bits(), 0x1000 | 0x800 | 7);
    assert_eq!(Iqh::from_bits(u64::MAX).qh(), 0x7fff);
    assert_eq!(Iqt::new().with_qt(0x7fff).into_bits(), 0x7fff0);
    // VirtualBox VTDIQEI.
    let iqei = [
        (Iqei::NotAvailable, 0),
        (Iqei::InvalidTail, 1),
        (Iqei::DescriptorFetch, 2),
        (Iqei::InvalidType, 3),
        (Iqei::ReservedField, 4),
        (Iqei::InvalidWidth, 5),
        (Iqei::TailMisaligned, 6),
        (Iqei::InvalidTtm, 7),
    ];
    for (ours, theirs) in iqei {
        assert_eq!(Iqercd::new().with_iqei(ours).into_bits(), theirs);
    }
    // Linux DMAR_IQER_REG_ITESID (47:32), _ICESID (63:48).
    assert_eq!(Iqercd::new().with_itesid(0xabcd).with_icesid(0x1234).into_bits(), 0x1234_abcd_0000_0000);
    assert_eq!(Irta::new().with_irta(1).with_eime(true).with_s(15).into_bits(), 0x1000 | 0x800 | 15);
    assert_eq!(Irta::new().with_s(15).entries(), 65536);
    assert_eq!(Pqh::new().with_pqh(0x3fff).into_bits(), 0x7ffe0);
    assert_eq!(Pqa::new().with_pqa(1).with_pqs(7).into_bits(), 0x1007);
    assert_eq!(Prs::new().with_ppr(true).with_pro(true).into_bits(), 3);
}

#[test]
fn table_entries() {
    let root = RootEntry::decode([0x1234_5001, 0]);
    assert!(root.low.p());
    assert_eq!(root.low.context_table(), 0x1234_5000);
    // QEMU VTD_ROOT_ENTRY_RSVD(aw) is 0xffe | ~HAW_MASK.
    for bit in 0..64 {
        let reserved = (0xffe | !((1u64 << 39) - 1)) & (1 << bit) != 0;
        assert_eq!(RootEntry::decode([1 << bit, 0]).has_reserved_bits(39), reserved, "bit {bit}");
        assert!(RootEntry::decode([1, 1 << bit]).has_reserved_bits(39), "bit {bit}");
    }
    // QEMU VTD_CONTEXT_ENTRY_RSVD_LO(aw) is 0xff0 | ~HAW_MASK; _RSVD_HI 0xffffffffff000080.
    let cap = Cap::new().with_nd(6);
    for bit in 0..64 {
        let low = (0xff0 | !((1u64 << 48) - 1)) & (1 << bit) != 0;
        assert_eq!(ContextEntry::decode([1 << bit, 0]).has_reserved_bits(48, cap), low, "bit {bit}");
        let high = 0xffff_ffff_ff00_0080_u64 & (1 << bit) != 0;
        assert_eq!(ContextEntry::decode([0, 1 << bit]).has_reserved_bits(48, cap), high, "bit {bit}");
    }
    // Linux: translation type in bits 3:2, address width in 66:64 (agaw 2 is 48 bits), domain ID in 87:72.
    let context = ContextEntry::decode([0xabc_d000 | 2 << 2 | 3, 0x42 << 8 | 2]);
    assert_eq!(context.low.tt(), TranslationType::PassThrough);
    assert!(context.low.p() && context.low.fpd());
    assert_eq!((context.levels(), context.high.did()), (Some(4), 0x42));
    assert_eq!(context.second_stage_table(), 0xabc_d000);
    // QEMU VTD_SM_CONTEXT_ENTRY_RSVD_VAL0(aw) is 0x1e0 | ~HAW_MASK; _RSVD_VAL1 0xffffffffffe00000.
    let everything = Ecap::from_bits(u64::MAX);
    for bit in 0..64 {
        let low = (0x1e0 | !((1u64 << 48) - 1)) & (1 << bit) != 0;
        let entry = ScalableContextEntry::decode([1 << bit, 0, 0, 0]);
        assert_eq!(entry.has_reserved_bits(48, everything), low, "bit {bit}");
        let high = 0xffff_ffff_ffe0_0000_u64 & (1 << bit) != 0;
        let entry = ScalableContextEntry::decode([0, 1 << bit, 0, 0]);
        assert_eq!(entry.has_reserved_bits(48, everything), high, "bit {bit}");
    }
    // Linux get_pasid_dir_size: 1 << (bits 11:9 + 7) entries; of 64 PASIDs each.
    assert_eq!(ScalableContextEntry::decode([5 << 9, 0, 0, 0]).pasids(), 64 << 12);
    assert_eq!(PasidDirectoryEntry::from_bits(0x7777_7003).pasid_table(), 0x7777_7000);
    // QEMU VTD_SM_PASID_ENTRY_*: P bit 0, AW 4:2, PGTT 8:6, DID 79:64, FLPM 131:130.
    let words = [0xaaaa_a000 | 3 << 6 | 2 << 2 | 1, 0x55 | 1 << 23, 0xbbbb_b000 | 1 << 2, 0, 0, 0, 0, 0];
    let entry = PasidEntry::decode(words);
    assert!(entry.word0.p() && !entry.word0.fpd());
    assert_eq!(entry.word0.pgtt(), Pgtt::Nested);
    assert_eq!((entry.second_stage_levels(), entry.first_stage_levels()), (Some(4), Some(5)));
    assert_eq!(entry.word1.did(), 0x55);
    // Linux pasid_set_page_snoop: bit 87 of the entry (PWSNP).
    assert!(entry.word1.pwsnp());
    assert_eq!((entry.second_stage_table(), entry.first_stage_table()), (0xaaaa_a000, 0xbbbb_b000));
    // Linux PASID_ENTRY_PGTT_*.
    for (pgtt, code) in
        [(Pgtt::FirstStage, 1), (Pgtt::SecondStage, 2), (Pgtt::Nested, 3), (Pgtt::PassThrough, 4)]
    {
        assert_eq!(PasidEntry::decode([code << 6, 0, 0, 0, 0, 0, 0, 0]).word0.pgtt(), pgtt);
    }
}

#[test]
fn reserved_bits_of_pasid_entries() {
    // VirtualBox's reserved fields, with those that revision 4 reserved: bit 5 (SLEE), 95:91 (EMT, PWT, PCD), 129 (ERE).
    let (cap, ecap) = (Cap::new().with_nd(6), Ecap::from_bits(u64::MAX));
    let masks: [u64; 8] = [0xc20, 0xf87f_0000, 0xf02, u64::MAX, u64::MAX, u64::MAX, u64::MAX, u64::MAX];
    for (word, mask) in masks.into_iter().enumerate() {
        for bit in 0..64 {
            let mut words = [0; 8];
            words[word] = 1u64 << bit;
            let above_haw = (word == 0 || word == 2) && bit >= 46;
            assert_eq!(
                PasidEntry::decode(words).has_reserved_bits(46, cap, ecap),
                mask & (1 << bit) != 0 || above_haw,
                "word {word} bit {bit}"
            );
        }
    }
    // Fields of features that are not there are reserved: SSADE, PWSNP, PGSNP, CD, SRE, EAFE.
    for (word, bit) in [(0, 9), (1, 23), (1, 24), (1, 25), (2, 0), (2, 7)] {
        let mut words = [0; 8];
        words[word] = 1u64 << bit;
        assert!(PasidEntry::decode(words).has_reserved_bits(46, cap, Ecap::new()), "word {word} bit {bit}");
    }
}

#[test]
fn paging_entries() {
    // QEMU VTD_SPTE_*_RSVD_MASK: with SC clear, bit 11 always, and without device-TLBs bit 62; bit 7 from level 4 (our 3) up; large pages' offsets.
    let reserved = |raw: u64, level| SecondStageEntry::from_bits(raw).reserved_bits(level, 48, 3, false);
    let above = 0x400f_0000_0000_0000;
    assert_eq!(reserved(!0x80, 0), 0x800 | above);
    assert_eq!(reserved(!0x80, 1), 0x800 | above);
    assert_eq!(reserved(u64::MAX, 1), 0x1f_f800 | above);
    assert_eq!(reserved(u64::MAX, 2), 0x3fff_f800 | above);
    assert_eq!(reserved(u64::MAX, 3), 0x880 | above);
    // Without 1 GiB pages PS is reserved there.
    assert_eq!(SecondStageEntry::from_bits(0x83).reserved_bits(2, 48, 1, false), 0x80);
    assert_eq!(SecondStageEntry::from_bits(0x83).reserved_bits(1, 48, 1, false), 0);
    // SNP is a leaf's where SC is reported.
    assert_eq!(SecondStageEntry::from_bits(0x803).reserved_bits(0, 48, 3, true), 0);
    assert_eq!(SecondStageEntry::from_bits(0x803).reserved_bits(1, 48, 3, true), 0x800);
    // Linux DMA_SL_PTE_DIRTY_BIT 9; DMA_PTE_LARGE_PAGE bit 7.
    assert!(SecondStageEntry::from_bits(1 << 9).d());
    assert!(SecondStageEntry::from_bits(1 << 8).a());
    assert!(SecondStageEntry::from_bits(1 << 7).ps());
    // QEMU VTD_FPTE_*_RSVD_MASK.
    let above = 0x000f_0000_0000_0000;
    let reserved = |raw: u64, level| FirstStageEntry::from_bits(raw).reserved_bits(level, 48);
    assert_eq!(reserved(!0x80, 1), above);
    assert_eq!(reserved(u64::MAX, 1), 0x1f_e000 | above);
    assert_eq!(reserved(u64::MAX, 2), 0x3fff_e000 | above);
    assert_eq!(reserved(u64::MAX, 3), 0x80 | above);
    // Linux DMA_FL_PTE_*; VirtualBox VTD_BF_FLP_ENTRY_EA.
    let entry = FirstStageEntry::from_bits(1 | 1 << 2 | 1 << 5 | 1 << 6 | 1 << 10 | 1 << 63);
    assert!(entry.p() && entry.us() && entry.a() && entry.d() && entry.ea() && entry.xd() && !entry.rw());
}

#[test]
fn interrupt_entries() {
    // Linux struct irte: dst_mode 2, redir_hint 3, trigger_mode 4, dlvry_mode 7:5, vector 23:16, dest 63:32.
    let raw = [0x0000_1200_0031_0000 | 1 | 1 << 2 | 1 << 3 | 1 << 4 | 1 << 5, 0x0100 | 1 << 18];
    let Irte::Remapped { low, high } = Irte::decode(raw) else { panic!("not remapped") };
    assert!(low.p() && low.dm() && low.rh() && low.tm());
    assert_eq!((low.dlm(), low.v(), low.dst()), (1, 0x31, 0x1200));
    assert_eq!((high.sid(), high.sq()), (0x100, 0));
    // VirtualBox VTD_IRTE_0_XAPIC_VALID_MASK and VTD_IRTE_0_X2APIC_VALID_MASK.
    for bit in (0..64).filter(|bit| *bit != 15) {
        let irte = Irte::decode([1 << bit, 0]);
        let xapic = 0x0000_ff00_00ff_8fff_u64 & (1 << bit) == 0;
        assert_eq!(irte.has_reserved_bits(false), xapic, "bit {bit}");
        let x2apic = 0xffff_ffff_00ff_8fff_u64 & (1 << bit) == 0;
        assert_eq!(irte.has_reserved_bits(true), x2apic, "bit {bit}");
        assert_eq!(Irte::decode([0, 1 << bit]).has_reserved_bits(true), bit >= 20, "bit {bit}");
    }
    // Linux posted mode: urgent 14, pst 15, vector 23:16, pda_l 63:38, pda_h 127:96.
    let posted = Irte::decode([1 | 1 << 14 | 1 << 15 | 0x42 << 16 | 0x1234_5640 << 32, 0x1 << 32]);
    assert_eq!(posted.posted_descriptor(), Some(0x1_1234_5640));
    let Irte::Posted { low, .. } = posted else { panic!("not posted") };
    assert!(low.urg());
    assert_eq!(low.vv(), 0x42);
    assert!(!posted.has_reserved_bits(true));
    // Linux intel_ir_compose_msi: address 0xfee00010 | shv << 3 | index_low << 5 | index_high << 2.
    assert_eq!(RemappableAddress::of(0x8001, true).into_bits(), 0xfee0_0010 | 1 << 3 | 1 << 5 | 1 << 2);
    assert_eq!(RemappableAddress::from_bits(0xfee0_0034).handle(), 0x8001);
}

#[test]
fn descriptors() {
    use InvalidationDescriptor as D;
    // Linux QI_*; each raw value by its macros.
    let cases = [
        (D::ContextCache(ContextCacheScope::Global), [1 | 1 << 4, 0]),
        (D::ContextCache(ContextCacheScope::Domain { did: 5 }), [1 | 2 << 4 | 5 << 16, 0]),
        (
            D::ContextCache(ContextCacheScope::Device { did: 5, sid: 0x18, fm: 3 }),
            [1 | 3 << 4 | 5 << 16 | 0x18 << 32 | 3 << 48, 0],
        ),
        (D::Iotlb { scope: IotlbScope::Global, dw: true, dr: true }, [2 | 1 << 4 | 1 << 6 | 1 << 7, 0]),
        (D::Iotlb { scope: IotlbScope::Domain { did: 9 }, dw: false, dr: false }, [2 | 2 << 4 | 9 << 16, 0]),
        (
            D::Iotlb {
                scope: IotlbScope::Pages { did: 9, pages: Pages { addr: 0x1234_5000, am: 4, ih: true } },
                dw: false,
                dr: true,
            },
            [2 | 3 << 4 | 9 << 16 | 1 << 7, 0x1234_5000 | 1 << 6 | 4],
        ),
        // QI_DEV_IOTLB_*: pfsid's low 4 bits at 12, its upper 12 at 52.
        (
            D::DeviceTlb { sid: 0x100, pfsid: 0xabcd, mip: 7, s: true, addr: 0x7000 },
            [3 | 0xd << 12 | 7 << 16 | 0x100 << 32 | 0xabc << 52, 0x7001],
        ),
        (D::InterruptEntryCache { index: None }, [4, 0]),
        (D::InterruptEntryCache { index: Some((0x123, 5)) }, [4 | 1 << 4 | 5 << 27 | 0x123 << 32, 0]),
        (
            D::Wait { interrupt: false, sw: true, fence: true, pd: true, stdata: 2, staddr: 0x9000 },
            [5 | 1 << 5 | 1 << 6 | 1 << 7 | 2 << 32, 0x9000],
        ),
        (
            D::Wait { interrupt: true, sw: false, fence: false, pd: false, stdata: 0, staddr: 0 },
            [5 | 1 << 4, 0],
        ),
        (D::PasidIotlb { did: 3, pasid: 0xf_ffff, pages: None }, [6 | 2 << 4 | 3 << 16 | 0xf_ffff << 32, 0]),
        (
            D::PasidIotlb { did: 3, pasid: 1, pages: Some(Pages { addr: 0x4000, am: 1, ih: true }) },
            [6 | 3 << 4 | 3 << 16 | 1 << 32, 0x4000 | 1 << 6 | 1],
        ),
        (D::PasidCache(PasidCacheScope::Domain { did: 8 }), [7 | 8 << 16, 0]),
        (D::PasidCache(PasidCacheScope::Pasid { did: 8, pasid: 2 }), [7 | 1 << 4 | 8 << 16 | 2 << 32, 0]),
        (D::PasidCache(PasidCacheScope::Global), [7 | 3 << 4, 0]),
        (
            D::PasidDeviceTlb { sid: 0x100, pfsid: 0x21, pasid: 4, mip: 3, g: false, s: true, addr: 0xf000 },
            [8 | 3 << 4 | 1 << 12 | 0x100 << 16 | 4 << 32 | 2 << 52, 0xf000 | 1 << 11],
        ),
        (
            D::PageGroupResponse { pp: true, code: ResponseCode::Failure, rid: 0x100, pasid: 6, prgi: 0x1ff },
            [9 | 1 << 4 | 0xf << 12 | 0x100 << 16 | 6 << 32, 0x1ff << 3],
        ),
    ];
    for (descriptor, [low, high]) in cases {
        assert_eq!(descriptor.encode(), [low, high, 0, 0], "{descriptor:?}");
        assert_eq!(D::decode(&[low, high, 0, 0]), Ok(descriptor));
        assert!(matches!(D::decode(&[low, high, 1, 0]), Err(DescriptorError::Reserved { word: 2, bits: 1 })));
    }
}

#[test]
fn reserved_bits_of_descriptors() {
    // QEMU VTD_INV_DESC_*_RSVD*. Of the wait descriptor QEMU reserves PD (bit 7) too, as it reports no PDS; of device-TLB
    // ones PFSID, as it has none.
    let cases: [(u64, u64, u64); 7] = [
        (1 | 3 << 4, 0xfffc_0000_0000_f1c0, u64::MAX),
        (2 | 3 << 4, 0xffff_ffff_0000_f100, 0xf80),
        (3, 0x000f_0000_ffe0_01f0, 0xffe),
        (4, 0xffff_0000_07ff_f1e0, u64::MAX),
        (5, 0xffff_f100, 3),
        (6 | 3 << 4, 0xfff0_0000_0000_f1c0, 0xf80),
        (8, 0, 0x7fe),
    ];
    for (base, low_mask, high_mask) in cases {
        for bit in 12..64 {
            let refused = InvalidationDescriptor::decode(&[base | 1 << bit, 0, 0, 0]).is_err();
            assert_eq!(refused, low_mask & (1 << bit) != 0, "type {base:#x} bit {bit}");
        }
        for bit in 0..64 {
            let refused = InvalidationDescriptor::decode(&[base, 1 << bit, 0, 0]).is_err();
            assert_eq!(refused, high_mask & (1 << bit) != 0, "type {base:#x} upper bit {bit}");
        }
    }
    // Granularities that do not exist: 0 of context and IOTLB, 0 and 1 of PASID-IOTLB, 2 of PASID-cache.
    for raw in [1, 2, 6, 6 | 1 << 4, 7 | 2 << 4] {
        assert!(matches!(
            InvalidationDescriptor::decode(&[raw, 0, 0, 0]),
            Err(DescriptorError::Granularity { .. })
        ));
    }
    // QEMU VTD_INV_DESC_TYPE: bits 11:9 are the type's upper bits.
    assert_eq!(
        InvalidationDescriptor::decode(&[1 | 1 << 4 | 1 << 9, 0, 0, 0]),
        Err(DescriptorError::InvalidType { type_: 0x11 })
    );
    for raw in [0, 0xa, 0xf] {
        assert!(matches!(
            InvalidationDescriptor::decode(&[raw, 0, 0, 0]),
            Err(DescriptorError::InvalidType { .. })
        ));
    }
}

#[test]
fn page_masks_cover_their_alignment() {
    let pages = |addr, am| Pages { addr, am, ih: false }.range();
    assert_eq!(pages(0x1234_5000, 0), (0x1234_5000, 0x1234_5fff));
    assert_eq!(pages(0x1234_5000, 9), (0x1220_0000, 0x123f_ffff));
    assert_eq!(pages(!0xfff, 51), (1 << 63, u64::MAX));
    assert_eq!(pages(0x1000, 52), (0, u64::MAX));
    assert_eq!(pages(0x1000, 63), (0, u64::MAX));
}

#[test]
fn page_requests() {
    // Linux struct page_req_dsc.
    let request = PageRequest::decode([
        1 | 1 << 8 | 0x100 << 16 | 5 << 32 | 1 << 53,
        3 | 1 << 2 | 7 << 3 | 0x8000,
        0,
        0,
    ]);
    assert_eq!(request.word0.r#type(), portcullis_spec::vtd::page_request::PAGE_REQUEST_TYPE);
    assert!(request.word0.pp() && request.word0.pm() && !request.word0.exe());
    assert_eq!((request.word0.rid(), request.word0.pasid()), (0x100, 5));
    assert!(request.word1.rd() && request.word1.wr() && request.word1.lpig());
    assert_eq!((request.word1.prgi(), request.address()), (7, 0x8000));
}

#[test]
fn fault_records() {
    // Linux dma_frcd_*, by 32-bit words: F 31 and type 30 of word 3, reason 7:0, PASID 27:8; PASID present 31 of word 2.
    let record = FaultRecord::decode([0xfeed_b000, 0xc000_0506_8000_0010]);
    assert!(record.high.f() && record.high.t1() && record.high.pp());
    assert_eq!((record.high.fr(), record.high.pv(), record.high.sid()), (6, 5, 0x10));
    assert_eq!(record.record_type(), RecordType::Read);
    // VirtualBox VTDREQTYPE: 0 write, 1 page request, 2 read, 3 atomic, as T1:T2.
    let of = |t1, t2| FaultRecord { high: FrcdHigh::new().with_t1(t1).with_t2(t2), ..record }.record_type();
    assert_eq!(of(false, false), RecordType::Write);
    assert_eq!(of(false, true), RecordType::PageRequest);
    assert_eq!(of(true, true), RecordType::Atomic);
    assert_eq!(FrcdHigh::new().with_t2(true).into_bits(), 0x1000_0000);
}

#[test]
fn fault_reasons() {
    // VirtualBox VTDADDRFAULT and VTDINTRFAULT; SFL and SSL are what revision 4 calls SFS and SSS.
    let theirs = [
        ("LRT.1", 0x8),
        ("LRT.2", 0x1),
        ("LRT.3", 0xa),
        ("LCT.1", 0x9),
        ("LCT.2", 0x2),
        ("LCT.3", 0xb),
        ("LCT.4", 0x3),
        ("LCT.5", 0xd),
        ("LSS.1", 0x7),
        ("LSS.2", 0xc),
        ("LGN.1", 0x4),
        ("LGN.2", 0x5),
        ("LGN.3", 0x6),
        ("LGN.4", 0xe),
        ("RTA.1", 0x30),
        ("RTA.2", 0x31),
        ("RTA.3", 0x32),
        ("RTA.4", 0x33),
        ("SRT.1", 0x38),
        ("SRT.2", 0x39),
        ("SRT.3", 0x3a),
        ("SCT.1", 0x40),
        ("SCT.2", 0x41),
        ("SCT.3", 0x42),
        ("SCT.4", 0x43),
        ("SCT.5", 0x44),
        ("SCT.6", 0x45),
        ("SCT.7", 0x46),
        ("SCT.8", 0x47),
        ("SCT.9", 0x48),
        ("SPD.1", 0x50),
        ("SPD.2", 0x51),
        ("SPD.3", 0x52),
        ("SPT.1", 0x58),
        ("SPT.2", 0x59),
        ("SPT.3", 0x5a),
        ("SPT.4", 0x5b),
        ("SPT.5", 0x5c),
        ("SPT.6", 0x5d),
        ("SFS.1", 0x70),
        ("SFS.2", 0x71),
        ("SFS.3", 0x72),
        ("SFS.4", 0x73),
        ("SFS.5", 0x74),
        ("SFS.6", 0x75),
        ("SFS.7", 0x76),
        ("SFS.8", 0x77),
        ("SFS.9", 0x90),
        ("SFS.10", 0x91),
        ("SSS.1", 0x78),
        ("SSS.2", 0x79),
        ("SSS.3", 0x7a),
        ("SSS.4", 0x7b),
        ("SSS.5", 0x7c),
        ("SSS.6", 0x7d),
        ("SGN.1", 0x80),
        ("SGN.2", 0x81),
        ("SGN.3", 0x82),
        ("SGN.4", 0x83),
        ("SGN.5", 0x84),
        ("SGN.6", 0x85),
        ("SGN.7", 0x86),
        ("SGN.8", 0x87),
        ("SGN.9", 0x88),
        ("SGN.10", 0x89),
    ];
    for (condition, code) in theirs {
        let reason = VtdFaultReason::from_code(code).expect(condition);
        assert_eq!(reason.condition(), condition);
    }
    let interrupts = VtdFaultReason::ALL.iter().filter(|reason| reason.is_interrupt()).count();
    assert_eq!(interrupts, 10, "20h to 29h");
    assert_eq!(VtdFaultReason::ALL.len(), theirs.len() + interrupts);
    // QEMU vtd_qualified_faults.
    for code in [0x1, 0x8, 0x9, 0xa, 0x50, 0x58] {
        assert!(!VtdFaultReason::from_code(code).unwrap().is_qualified(), "{code:#x}");
    }
    for code in [
        0x2, 0x3, 0x4, 0x5, 0x6, 0x7, 0xc, 0xd, 0xe, 0x51, 0x59, 0x5b, 0x70, 0x71, 0x72, 0x73, 0x80, 0x81,
        0x85, 0x87, 0x91,
    ] {
        assert!(VtdFaultReason::from_code(code).unwrap().is_qualified(), "{code:#x}");
    }
}

#[test]
fn a_neutral_reason_comes_back_as_its_class() {
    for reason in VtdFaultReason::ALL.iter().filter(|reason| !reason.is_interrupt()) {
        for ttm in [Ttm::Legacy, Ttm::Scalable] {
            for access in [portcullis_spec::Access::READ, portcullis_spec::Access::WRITE] {
                let Some(back) = VtdFaultReason::from_neutral(ttm, reason.neutral(), reason.stage(), access)
                else {
                    continue;
                };
                // Legacy mode reports "not mapped" as a permission that is missing (VT-d 7.1.3, LGN.2 and LGN.3).
                if ttm == Ttm::Scalable || reason.neutral() != portcullis_spec::FaultReason::NotMapped {
                    assert_eq!(back.neutral(), reason.neutral(), "{reason:?} in {ttm:?}");
                }
            }
        }
    }
}
