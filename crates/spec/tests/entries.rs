//! Where the specifications put the fields of table entries: for each field, the word and the bits that it must occupy, as the
//! specification's tables number them; and every entry gives back the words that it was made from.

use portcullis_spec::amdvi::{
    device_table::{
        DeviceTableEntry, DeviceTableEntry0, DeviceTableEntry1, DeviceTableEntry2, DeviceTableEntry3,
    },
    feature::ExtendedFeature,
    interrupt::{IntType, Irte32, Irte128, Irte128High, Irte128Low, IrteGuestHigh, IrteGuestLow},
    paging::HostPageTableEntry,
};
use portcullis_spec::smmuv3::{
    cd::{Cd, Cd0, Cd1, Cd2, Cd3, Cd4, Cd5, L1Cd},
    ste::{Config, L1Std, Ste, Ste0, Ste1, Ste2, Ste3, Ste4, Ste5, Ste6},
};

fn bits(high: u32, low: u32) -> u64 {
    (u64::MAX >> (63 - (high - low))) << low
}

/// `field high:low` of each word, with all bits of the field set and no other.
macro_rules! fields {
    ($word:ident { $($with:ident($all:expr) = $high:literal : $low:literal),* $(,)? }) => {{
        let mut taken = 0u64;
        $(
            let mask = bits($high, $low);
            let written: u64 = $word::new().$with($all).into_bits().into();
            assert_eq!(written, mask, concat!(stringify!($word), "::", stringify!($with)));
            assert_eq!(taken & mask, 0, concat!(stringify!($with), " overlaps"));
            taken |= mask;
        )*
        let _ = taken;
    }};
}

/// AMD I/O Virtualization, figure 8 and table 7.
#[test]
fn amd_device_table_entry() {
    fields!(DeviceTableEntry0 {
        with_v(true) = 0:0, with_tv(true) = 1:1, with_had(3) = 8:7, with_mode(7) = 11:9,
        with_host_page_table_root(bits(39, 0)) = 51:12, with_ppr(true) = 52:52, with_gprp(true) = 53:53,
        with_giov(true) = 54:54, with_gv(true) = 55:55, with_glx(3) = 57:56, with_gcr3_trp_14_12(7) = 60:58,
        with_ir(true) = 61:61, with_iw(true) = 62:62,
    });
    fields!(DeviceTableEntry1 {
        with_domain_id(0xffff) = 15:0, with_gcr3_trp_30_15(0xffff) = 31:16, with_i(true) = 32:32,
        with_se(true) = 33:33, with_sa(true) = 34:34, with_ioctl(3) = 36:35, with_cache(true) = 37:37,
        with_sd(true) = 38:38, with_ex(true) = 39:39, with_sysmgt(3) = 41:40, with_sats(true) = 42:42,
        with_gcr3_trp_51_31(0x1f_ffff) = 63:43,
    });
    fields!(DeviceTableEntry2 {
        with_iv(true) = 0:0, with_inttablen(15) = 4:1, with_ig(true) = 5:5,
        with_interrupt_table_root(bits(45, 0)) = 51:6, with_guest_paging_mode(3) = 55:54, with_init_pass(true) = 56:56,
        with_eint_pass(true) = 57:57, with_nmi_pass(true) = 58:58, with_hptmode(true) = 59:59,
        with_intctl(3) = 61:60, with_lint0_pass(true) = 62:62, with_lint1_pass(true) = 63:63,
    });
    fields!(DeviceTableEntry3 {
        with_vimu_en(true) = 15:15, with_guest_id(0xffff) = 31:16, with_gdevice_id(0xffff) = 47:32,
        with_attrv(true) = 54:54, with_mode0fc(true) = 55:55, with_snoop_attribute(0xff) = 63:56,
    });
    let root = 0x000f_edcb_a987_6000;
    let entry = DeviceTableEntry::default().with_guest_cr3_table(root);
    assert_eq!(entry.guest_cr3_table(), root);
    assert_eq!(DeviceTableEntry::decode(entry.encode()), entry);
}

/// AMD I/O Virtualization, 2.2.5 and 2.2.3.
#[test]
fn amd_interrupt_and_paging_entries() {
    fields!(Irte32 {
        with_remap_en(true) = 0:0, with_sup_iopf(true) = 1:1, with_int_type(IntType::Reserved(7)) = 4:2,
        with_rq_eoi(true) = 5:5, with_dm(true) = 6:6, with_guest_mode(true) = 7:7, with_destination(0xff) = 15:8,
        with_vector(0xff) = 23:16,
    });
    fields!(Irte128Low {
        with_remap_en(true) = 0:0, with_sup_iopf(true) = 1:1, with_int_type(IntType::Reserved(7)) = 4:2,
        with_rq_eoi(true) = 5:5, with_dm(true) = 6:6, with_guest_mode(true) = 7:7,
        with_destination_23_0(0xff_ffff) = 31:8,
    });
    fields!(Irte128High { with_vector(0xff) = 7:0, with_destination_31_24(0xff) = 63:56 });
    fields!(IrteGuestLow {
        with_remap_en(true) = 0:0, with_sup_iopf(true) = 1:1, with_ga_log_intr(true) = 2:2, with_is_run(true) = 6:6,
        with_guest_mode(true) = 7:7, with_destination_23_0(0xff_ffff) = 31:8, with_ga_tag(u32::MAX) = 63:32,
    });
    fields!(IrteGuestHigh {
        with_vector(0xff) = 7:0, with_ga_table_root(bits(39, 0)) = 51:12, with_destination_31_24(0xff) = 63:56,
    });
    fields!(HostPageTableEntry {
        with_pr(true) = 0:0, with_a(true) = 5:5, with_d(true) = 6:6, with_next_level(7) = 11:9,
        with_address(bits(39, 0)) = 51:12, with_u(true) = 59:59, with_fc(true) = 60:60, with_ir(true) = 61:61,
        with_iw(true) = 62:62,
    });
    // As Linux has them (drivers/iommu/amd/amd_iommu_types.h, FEATURE_*).
    fields!(ExtendedFeature {
        with_prefsup(true) = 0:0, with_pprsup(true) = 1:1, with_xtsup(true) = 2:2, with_nxsup(true) = 3:3,
        with_gtsup(true) = 4:4, with_iasup(true) = 6:6, with_gasup(true) = 7:7, with_hesup(true) = 8:8,
        with_pcsup(true) = 9:9, with_hats(3) = 11:10, with_gats(3) = 13:12, with_glxsup(3) = 15:14,
        with_gamsup(7) = 23:21, with_pasmax(31) = 36:32, with_ussup(true) = 37:37, with_devtblsegsup(3) = 39:38,
        with_giosup(true) = 48:48, with_hasup(true) = 49:49, with_ephsup(true) = 50:50, with_hdsup(true) = 52:52,
        with_snpsup(true) = 63:63,
    });
    let x2apic = Irte128::decode([0x1234_5601, 0x7800_0000_0000_0031]);
    assert_eq!(x2apic.destination(), 0x7812_3456);
}

/// SMMUv3 5.1 and 5.2; the second and later words less 64 for each before them.
#[test]
fn smmuv3_stream_table_entry() {
    fields!(L1Std { with_span(31) = 4:0, with_l2ptr(bits(49, 0)) = 55:6 });
    assert_eq!((L1Std::new().with_span(9).entries(), L1Std::new().with_span(12).entries()), (256, 0));
    fields!(Ste0 {
        with_v(true) = 0:0, with_config(Config::Nested) = 3:1, with_s1fmt(3) = 5:4,
        with_s1contextptr(bits(49, 0)) = 55:6, with_s1cdmax(31) = 63:59,
    });
    fields!(Ste1 {
        with_s1dss(3) = 1:0, with_s1cir(3) = 3:2, with_s1cor(3) = 5:4, with_s1csh(3) = 7:6,
        with_s2hwu59(true) = 8:8, with_s2hwu60(true) = 9:9, with_s2hwu61(true) = 10:10, with_s2hwu62(true) = 11:11,
        with_dre(true) = 12:12, with_cont(15) = 16:13, with_dcp(true) = 17:17, with_ppar(true) = 18:18,
        with_mev(true) = 19:19, with_sw_reserved(15) = 23:20, with_s1pie(true) = 24:24, with_s2fwb(true) = 25:25,
        with_s1mpam(true) = 26:26, with_s1stalld(true) = 27:27, with_eats(3) = 29:28, with_strw(3) = 31:30,
        with_memattr(15) = 35:32, with_mtcfg(true) = 36:36, with_alloccfg(15) = 40:37, with_shcfg(3) = 45:44,
        with_nscfg(3) = 47:46, with_privcfg(3) = 49:48, with_instcfg(3) = 51:50, with_impl_def(0xfff) = 63:52,
    });
    fields!(Ste2 {
        with_s2vmid(0xffff) = 15:0, with_impl_def(0xffff) = 31:16, with_s2t0sz(63) = 37:32, with_s2sl0(3) = 39:38,
        with_s2ir0(3) = 41:40, with_s2or0(3) = 43:42, with_s2sh0(3) = 45:44, with_s2tg(3) = 47:46,
        with_s2ps(7) = 50:48, with_s2aa64(true) = 51:51, with_s2endi(true) = 52:52, with_s2affd(true) = 53:53,
        with_s2ptw(true) = 54:54, with_s2hd(true) = 55:55, with_s2ha(true) = 56:56, with_s2s(true) = 57:57,
        with_s2r(true) = 58:58, with_s2haft(true) = 59:59, with_s2pie(true) = 60:60, with_s2poe(true) = 61:61,
        with_dpt_vmatch(3) = 63:62,
    });
    fields!(Ste3 {
        with_s2nsw(true) = 0:0, with_s2nsa(true) = 1:1, with_s2sl0_2(true) = 2:2, with_s2ds(true) = 3:3,
        with_s2ttb(bits(51, 0)) = 55:4, with_s2skl(3) = 62:61,
    });
    fields!(Ste4 {
        with_impl_def(0xffff) = 15:0, with_partid(0xffff) = 31:16, with_s_s2t0sz(63) = 37:32, with_s_s2sl0(3) = 39:38,
        with_s_s2tg(3) = 47:46, with_mecid(0xffff) = 63:48,
    });
    fields!(Ste5 {
        with_pmg(0xff) = 7:0, with_mpam_ns(true) = 8:8, with_assuredonly(true) = 9:9, with_tl0(true) = 10:10,
        with_tl1(true) = 11:11, with_vmsptr(bits(43, 0)) = 55:12,
    });
    fields!(Ste6 {
        with_s2sw(true) = 0:0, with_s2sa(true) = 1:1, with_s_s2sl0_2(true) = 2:2,
        with_s_s2ttb(bits(51, 0)) = 55:4, with_s_s2skl(3) = 62:61,
    });
}

/// SMMUv3 5.3 and 5.4.
#[test]
fn smmuv3_context_descriptor() {
    fields!(L1Cd { with_v(true) = 0:0, with_l2ptr(bits(43, 0)) = 55:12 });
    fields!(Cd0 {
        with_t0sz(63) = 5:0, with_tg0(3) = 7:6, with_ir0(3) = 9:8, with_or0(3) = 11:10, with_sh0(3) = 13:12,
        with_epd0(true) = 14:14, with_endi(true) = 15:15, with_t1sz(63) = 21:16, with_tg1(3) = 23:22,
        with_ir1(3) = 25:24, with_or1(3) = 27:26, with_sh1(3) = 29:28, with_epd1(true) = 30:30, with_v(true) = 31:31,
        with_ips(7) = 34:32, with_affd(true) = 35:35, with_wxn(true) = 36:36, with_uwxn(true) = 37:37,
        with_tbi0(true) = 38:38, with_tbi1(true) = 39:39, with_pan(true) = 40:40, with_aa64(true) = 41:41,
        with_hd(true) = 42:42, with_ha(true) = 43:43, with_s(true) = 44:44, with_r(true) = 45:45, with_a(true) = 46:46,
        with_aset(true) = 47:47, with_asid(0xffff) = 63:48,
    });
    fields!(Cd1 {
        with_nscfg0(true) = 0:0, with_had0(true) = 1:1, with_e0pd0(true) = 2:2, with_haft(true) = 3:3,
        with_ttb0(bits(51, 0)) = 55:4, with_pnch(true) = 58:58, with_epan(true) = 59:59, with_hwu059(true) = 60:60,
        with_hwu060(true) = 61:61, with_hwu062_061(3) = 63:62,
    });
    fields!(Cd2 {
        with_nscfg1(true) = 0:0, with_had1(true) = 1:1, with_e0pd1(true) = 2:2, with_aie(true) = 3:3,
        with_ttb1(bits(51, 0)) = 55:4, with_ds(true) = 58:58, with_pie(true) = 59:59, with_hwu159(true) = 60:60,
        with_hwu160(true) = 61:61, with_hwu162_161(3) = 63:62,
    });
    fields!(Cd3 { with_mair0(u32::MAX) = 31:0, with_mair1(u32::MAX) = 63:32 });
    fields!(Cd4 { with_amair0(u32::MAX) = 31:0, with_amair1(u32::MAX) = 63:32 });
    fields!(Cd5 { with_impl_def(u32::MAX) = 31:0, with_partid(0xffff) = 47:32, with_pmg(0xff) = 55:48 });
}

/// Every entry, made from any words, gives the same words back.
#[test]
fn entries_give_back_their_words() {
    let mut state = 0x2545_f491_4f6c_dd1du64;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    for _ in 0..10_000 {
        let words: [u64; 8] = std::array::from_fn(|_| random());
        let four = [words[0], words[1], words[2], words[3]];
        let two = [words[0], words[1]];
        assert_eq!(Ste::decode(words).encode(), words);
        assert_eq!(Cd::decode(words).encode(), words);
        assert_eq!(DeviceTableEntry::decode(four).encode(), four);
        assert_eq!(Irte128::decode(two).encode(), two);
        assert_eq!(Irte32::from_bits(words[0] as u32).into_bits(), words[0] as u32);
        // The typed fields keep reserved encodings too.
        let ste = Ste::decode(words);
        assert_eq!(ste.q0.with_config(ste.q0.config()), ste.q0);
        let irte = Irte32::from_bits(words[1] as u32);
        assert_eq!(irte.with_int_type(irte.int_type()), irte);
    }
}
