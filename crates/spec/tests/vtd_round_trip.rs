//! Every VT-d structure survives being written and read back, for any value of its fields, and any bits survive being
//! read and written back.

use portcullis_spec::vtd::VtdFaultReason;
use portcullis_spec::vtd::context::{ContextEntry, ScalableContextEntry};
use portcullis_spec::vtd::fault::FaultRecord;
use portcullis_spec::vtd::interrupt::{
    Irte, PostedDescriptor, RemappableAddress, RemappableData, RemappedLow,
};
use portcullis_spec::vtd::invalidation::{
    ContextCacheScope, InvalidationDescriptor, IotlbScope, Pages, PasidCacheScope,
};
use portcullis_spec::vtd::page_request::{PageRequest, ResponseCode};
use portcullis_spec::vtd::paging::{FirstStageEntry, SecondStageEntry};
use portcullis_spec::vtd::pasid::{PasidDirectoryEntry, PasidEntry};
use portcullis_spec::vtd::registers::*;
use portcullis_spec::vtd::root::{RootEntry, ScalableRootEntry};
use portcullis_spec::{Access, Fault, FaultReason, Iova, Pasid, PciAddress, RequestType, Requester};
use proptest::prelude::*;

/// For any raw value: reading it, taking every field out, and putting every field into a fresh one gives the same
/// fields; and the raw value itself comes back.
macro_rules! fields {
    ($($test:ident: $type:ty, $word:ty, [$($field:ident: $with:ident),*];)*) => {
        proptest! {
            $(
                #[test]
                fn $test(raw: $word) {
                    let read = <$type>::from_bits(raw);
                    prop_assert_eq!(read.into_bits(), raw);
                    let written = <$type>::new()$(.$with(read.$field()))*;
                    $(prop_assert_eq!(written.$field(), read.$field());)*
                    // Encoding what was decoded is stable: only undefined bits may have gone.
                    prop_assert_eq!(<$type>::from_bits(written.into_bits()), written);
                    prop_assert_eq!(written.into_bits() & !raw, 0);
                }
            )*
        }
    };
}

fields! {
    ver: Ver, u32, [min: with_min, max: with_max];
    cap: Cap, u64, [nd: with_nd, afl: with_afl, rwbf: with_rwbf, plmr: with_plmr, phmr: with_phmr, cm: with_cm,
        sagaw: with_sagaw, mgaw: with_mgaw, zlr: with_zlr, fro: with_fro, sslps: with_sslps, psi: with_psi,
        nfr: with_nfr, mamv: with_mamv, dwd: with_dwd, drd: with_drd, fs1gp: with_fs1gp, pi: with_pi,
        fs5lp: with_fs5lp, ecmds: with_ecmds, esirtps: with_esirtps, esrtps: with_esrtps];
    ecap: Ecap, u64, [c: with_c, qi: with_qi, dt: with_dt, ir: with_ir, eim: with_eim, pt: with_pt, sc: with_sc,
        iro: with_iro, mhmv: with_mhmv, mts: with_mts, nest: with_nest, prs: with_prs, ers: with_ers, srs: with_srs,
        nwfs: with_nwfs, eafs: with_eafs, pss: with_pss, pasid: with_pasid, dit: with_dit, pds: with_pds,
        smts: with_smts, vcs: with_vcs, ssads: with_ssads, ssts: with_ssts, fsts: with_fsts, smpwcs: with_smpwcs,
        rps: with_rps, pms: with_pms, adms: with_adms, rprivs: with_rprivs, sms: with_sms];
    gcmd: Gcmd, u32, [cfi: with_cfi, sirtp: with_sirtp, ire: with_ire, qie: with_qie, wbf: with_wbf,
        eafl: with_eafl, sfl: with_sfl, srtp: with_srtp, te: with_te];
    gsts: Gsts, u32, [cfis: with_cfis, irtps: with_irtps, ires: with_ires, qies: with_qies, wbfs: with_wbfs,
        afls: with_afls, fls: with_fls, rtps: with_rtps, tes: with_tes];
    rtaddr: Rtaddr, u64, [ttm: with_ttm, rta: with_rta];
    ccmd: Ccmd, u64, [did: with_did, sid: with_sid, fm: with_fm, caig: with_caig, cirg: with_cirg, icc: with_icc];
    iotlb: Iotlb, u64, [did: with_did, dw: with_dw, dr: with_dr, iaig: with_iaig, iirg: with_iirg, ivt: with_ivt];
    iva: Iva, u64, [am: with_am, ih: with_ih, addr: with_addr];
    fsts: Fsts, u32, [pfo: with_pfo, ppf: with_ppf, afo: with_afo, apf: with_apf, iqe: with_iqe, ice: with_ice,
        ite: with_ite, fri: with_fri];
    event_control: EventControl, u32, [ip: with_ip, im: with_im];
    event_data: EventData, u32, [imd: with_imd, eimd: with_eimd];
    event_address: EventAddress, u32, [ma: with_ma];
    aflog: Aflog, u64, [fls: with_fls, fla: with_fla];
    frcd_low: FrcdLow, u64, [fi: with_fi];
    frcd_high: FrcdHigh, u64, [sid: with_sid, t2: with_t2, r#priv: with_priv, exe: with_exe, pp: with_pp,
        fr: with_fr, pv: with_pv, at: with_at, t1: with_t1, f: with_f];
    pmen: Pmen, u32, [prs: with_prs, epm: with_epm];
    iqh: Iqh, u64, [qh: with_qh];
    iqt: Iqt, u64, [qt: with_qt];
    iqa: Iqa, u64, [qs: with_qs, dw: with_dw, iqa: with_iqa];
    ics: Ics, u32, [iwc: with_iwc];
    iqercd: Iqercd, u64, [iqei: with_iqei, itesid: with_itesid, icesid: with_icesid];
    irta: Irta, u64, [s: with_s, eime: with_eime, irta: with_irta];
    pqh: Pqh, u64, [pqh: with_pqh];
    pqt: Pqt, u64, [pqt: with_pqt];
    pqa: Pqa, u64, [pqs: with_pqs, pqa: with_pqa];
    prs: Prs, u32, [ppr: with_ppr, pro: with_pro];
    pasid_directory_entry: PasidDirectoryEntry, u64, [p: with_p, fpd: with_fpd, smptblptr: with_smptblptr];
    first_stage_entry: FirstStageEntry, u64, [p: with_p, rw: with_rw, us: with_us, pwt: with_pwt, pcd: with_pcd,
        a: with_a, d: with_d, ps: with_ps, g: with_g, ign9: with_ign9, ea: with_ea, ign11: with_ign11,
        addr: with_addr, ign52: with_ign52, xd: with_xd];
    second_stage_entry: SecondStageEntry, u64, [r: with_r, w: with_w, ign2: with_ign2, emt: with_emt,
        ipat: with_ipat, ps: with_ps, a: with_a, d: with_d, ign10: with_ign10, snp: with_snp, addr: with_addr,
        ign52: with_ign52, tm: with_tm, ign63: with_ign63];
    remappable_address: RemappableAddress, u32, [ign: with_ign, handle_15: with_handle_15, shv: with_shv,
        format: with_format, handle_14_0: with_handle_14_0, prefix: with_prefix];
    remappable_data: RemappableData, u32, [subhandle: with_subhandle, rsvd: with_rsvd];
}

proptest! {
    #[test]
    fn tables_keep_every_bit(words: [u64; 8]) {
        let [a, b, c, d, ..] = words;
        prop_assert_eq!(RootEntry::decode([a, b]).encode(), [a, b]);
        prop_assert_eq!(ScalableRootEntry::decode([a, b]).encode(), [a, b]);
        prop_assert_eq!(ContextEntry::decode([a, b]).encode(), [a, b]);
        prop_assert_eq!(ScalableContextEntry::decode([a, b, c, d]).encode(), [a, b, c, d]);
        prop_assert_eq!(PasidEntry::decode(words).encode(), words);
        prop_assert_eq!(Irte::decode([a, b]).encode(), [a, b]);
        prop_assert_eq!(PostedDescriptor::decode(words).encode(), words);
        prop_assert_eq!(PageRequest::decode([a, b, c, d]).encode(), [a, b, c, d]);
        prop_assert_eq!(FaultRecord::decode([a, b]).encode(), [a, b]);
    }

    #[test]
    fn protected_ranges_keep_every_bit(low: u32, high: u64) {
        prop_assert_eq!(Plmbase::from_bits(low).into_bits(), low);
        prop_assert_eq!(Plmlimit::from_bits(low).into_bits(), low);
        prop_assert_eq!(Phmbase::from_bits(high).into_bits(), high);
        prop_assert_eq!(Phmlimit::from_bits(high).into_bits(), high);
    }

    #[test]
    fn a_descriptor_reads_back_as_written(descriptor in descriptors()) {
        prop_assert_eq!(InvalidationDescriptor::decode(&descriptor.encode()), Ok(descriptor));
    }

    #[test]
    fn an_accepted_descriptor_reads_the_same_after_writing(words: [u64; 2], type_ in 0u64..16) {
        // Random upper bits mostly make reserved ones; clear those that any type reserves half of the time.
        let raw = [(words[0] & 0x000f_0000_ffff_003f & !0xf) | type_, words[1] & !0xfff, 0, 0];
        if let Ok(descriptor) = InvalidationDescriptor::decode(&raw) {
            prop_assert_eq!(InvalidationDescriptor::decode(&descriptor.encode()), Ok(descriptor));
        }
    }

    #[test]
    fn a_fault_record_reads_back_as_written(fault in faults()) {
        let record = FaultRecord::from_fault(&fault).unwrap();
        prop_assert_eq!(FaultRecord::decode(record.encode()).to_fault(3), Some(fault));
    }

    /// 5.1.2.2: the address of a request with SHV clear: handle bits 14:0 in 19:5, bit 15 in 2, and the format bit 4.
    #[test]
    fn an_interrupt_fault_tells_of_its_entry_by_the_address_that_names_it(source: u16, index: u16, reason in 0x20u8..=0x26) {
        let record = FaultRecord::interrupt(source, VtdFaultReason::from_code(reason).unwrap(), index);
        let fault = record.to_fault(3).unwrap();
        prop_assert_eq!(fault.requester, Requester::Pci(PciAddress { segment: 3, requester_id: source }));
        let handle = u64::from(index & 0x7fff) << 5 | u64::from(index >> 15) << 2;
        prop_assert_eq!(fault.address, Iova(0xfee0_0010 | handle));
        prop_assert_eq!((fault.code, fault.access), (reason.into(), Access::WRITE));
        prop_assert_eq!(FaultRecord::from_fault(&fault), Some(record));
    }

    /// 9.9: what a present entry says is what its route says, where the mode has room for the destination.
    #[test]
    fn a_remapped_entry_comes_to_its_route(low: u64, eime: bool) {
        let written = RemappedLow::from_bits(low & 0xffff_ffff_00ff_00fc | 1);
        let Some(route) = written.route(eime) else {
            prop_assert!(matches!(low >> 5 & 7, 3 | 6));
            return Ok(());
        };
        let expected = if eime { written } else { written.with_dst(written.dst() & 0xff00) };
        prop_assert_eq!(RemappedLow::of(&route, eime), Some(expected));
    }

    #[test]
    fn a_reason_has_one_code(code: u8) {
        if let Some(reason) = VtdFaultReason::from_code(code) {
            prop_assert_eq!(reason.code(), code);
            prop_assert!(VtdFaultReason::ALL.contains(&reason));
        }
    }
}

fn pages() -> impl Strategy<Value = Pages> {
    (any::<u64>(), 0u8..64, any::<bool>()).prop_map(|(addr, am, ih)| Pages { addr: addr & !0xfff, am, ih })
}

fn descriptors() -> impl Strategy<Value = InvalidationDescriptor> {
    let pasid = 0u32..1 << 20;
    prop_oneof![
        Just(InvalidationDescriptor::ContextCache(ContextCacheScope::Global)),
        any::<u16>().prop_map(|did| InvalidationDescriptor::ContextCache(ContextCacheScope::Domain { did })),
        (any::<u16>(), any::<u16>(), 0u8..4).prop_map(|(did, sid, fm)| InvalidationDescriptor::ContextCache(
            ContextCacheScope::Device { did, sid, fm }
        )),
        (any::<u16>(), any::<Option<()>>(), pages(), any::<bool>(), any::<bool>(), any::<bool>()).prop_map(
            |(did, global, pages, selective, dw, dr)| InvalidationDescriptor::Iotlb {
                scope: match (global, selective) {
                    (None, _) => IotlbScope::Global,
                    (Some(()), false) => IotlbScope::Domain { did },
                    (Some(()), true) => IotlbScope::Pages { did, pages },
                },
                dw,
                dr,
            }
        ),
        (any::<u16>(), any::<u16>(), 0u8..32, any::<bool>(), any::<u64>()).prop_map(
            |(sid, pfsid, mip, s, addr)| InvalidationDescriptor::DeviceTlb {
                sid,
                pfsid,
                mip,
                s,
                addr: addr & !0xfff
            }
        ),
        proptest::option::of((any::<u16>(), 0u8..32))
            .prop_map(|index| InvalidationDescriptor::InterruptEntryCache { index }),
        (any::<[bool; 4]>(), any::<u32>(), any::<u64>()).prop_map(
            |([interrupt, sw, fence, pd], stdata, staddr)| {
                InvalidationDescriptor::Wait { interrupt, sw, fence, pd, stdata, staddr: staddr & !3 }
            }
        ),
        (any::<u16>(), pasid.clone(), proptest::option::of(pages()))
            .prop_map(|(did, pasid, pages)| InvalidationDescriptor::PasidIotlb { did, pasid, pages }),
        (any::<u16>(), pasid.clone(), 0u8..3).prop_map(|(did, pasid, which)| {
            InvalidationDescriptor::PasidCache(match which {
                0 => PasidCacheScope::Domain { did },
                1 => PasidCacheScope::Pasid { did, pasid },
                _ => PasidCacheScope::Global,
            })
        }),
        (any::<u16>(), any::<u16>(), pasid.clone(), 0u8..32, any::<bool>(), any::<bool>(), any::<u64>())
            .prop_map(|(sid, pfsid, pasid, mip, g, s, addr)| InvalidationDescriptor::PasidDeviceTlb {
                sid,
                pfsid,
                pasid,
                mip,
                g,
                s,
                addr: addr & !0xfff
            }),
        (any::<bool>(), 0u8..16, any::<u16>(), pasid, 0u16..512).prop_map(|(pp, code, rid, pasid, prgi)| {
            InvalidationDescriptor::PageGroupResponse {
                pp,
                code: ResponseCode::from_bits(code),
                rid,
                pasid,
                prgi,
            }
        }),
    ]
}

/// Faults that a record can hold whole: the requester on segment 3, no address bits below the page, no address between
/// stages, and privilege and execution only with a PASID.
fn faults() -> impl Strategy<Value = Fault> {
    let dma = |reason: &VtdFaultReason| !reason.is_interrupt();
    let reasons: Vec<_> = VtdFaultReason::ALL.iter().copied().filter(dma).collect();
    let reasons = proptest::sample::select(reasons);
    let access = proptest::sample::select(vec![
        Access::READ,
        Access::WRITE,
        Access::READ | Access::EXECUTE,
        Access::READ_WRITE | Access::ATOMIC,
    ]);
    let types = proptest::sample::select(vec![
        RequestType::Untranslated,
        RequestType::TranslationRequest,
        RequestType::Translated,
    ]);
    (any::<u16>(), proptest::option::of(0u32..1 << 20), any::<u64>(), reasons, access, any::<bool>(), types)
        .prop_map(|(requester_id, pasid, address, reason, access, privileged, request_type)| Fault {
            requester: Requester::Pci(PciAddress { segment: 3, requester_id }),
            pasid: pasid.and_then(Pasid::new),
            address: Iova(address & !0xfff),
            ipa: None,
            access: if pasid.is_some() { access } else { access - Access::EXECUTE },
            privileged: pasid.is_some() && privileged,
            request_type,
            reason: reason.neutral(),
            stage: reason.stage(),
            code: u32::from(reason.code()),
        })
}

#[test]
fn a_record_without_f_tells_of_no_fault() {
    let fault = Fault {
        requester: Requester::Pci(PciAddress { segment: 0, requester_id: 8 }),
        pasid: None,
        address: Iova(0x1000),
        ipa: None,
        access: Access::READ,
        privileged: false,
        request_type: RequestType::Untranslated,
        reason: FaultReason::PermissionDenied,
        stage: None,
        code: 6,
    };
    let record = FaultRecord::from_fault(&fault).unwrap();
    assert!(record.to_fault(0).is_some());
    let cleared = FaultRecord { high: record.high.with_f(false), ..record };
    assert_eq!(cleared.to_fault(0), None);
}
