//! The non-secure programming interface (SMMUv3 6.3): each register a type named as the specification names it, and
//! their offsets in bytes. Page 0 is the first 64 KiB, page 1 (event and PRI queue indexes) the second.

use bitfield_struct::bitfield;

/// Bytes of the register pages that every SMMU has: page 0 and page 1 (SMMUv3 6.1).
pub const REGISTER_REGION_SIZE: u64 = 0x2_0000;

/// Offsets of the registers in bytes (SMMUv3 6.2).
pub mod offset {
    /// Feature identification 0 to 5, 32 bits each, in a row.
    pub const IDR0: u64 = 0x000;
    /// Feature identification 1.
    pub const IDR1: u64 = 0x004;
    /// Feature identification 2.
    pub const IDR2: u64 = 0x008;
    /// Feature identification 3.
    pub const IDR3: u64 = 0x00c;
    /// Feature identification 4: implementation defined.
    pub const IDR4: u64 = 0x010;
    /// Feature identification 5.
    pub const IDR5: u64 = 0x014;
    /// Implementation identification.
    pub const IIDR: u64 = 0x018;
    /// Architecture identification.
    pub const AIDR: u64 = 0x01c;
    /// Control 0.
    pub const CR0: u64 = 0x020;
    /// What of control 0 has taken effect.
    pub const CR0ACK: u64 = 0x024;
    /// Control 1: attributes of table and queue accesses.
    pub const CR1: u64 = 0x028;
    /// Control 2.
    pub const CR2: u64 = 0x02c;
    /// Status.
    pub const STATUSR: u64 = 0x040;
    /// Global bypass attributes.
    pub const GBPA: u64 = 0x044;
    /// Auxiliary GBPA: implementation defined.
    pub const AGBPA: u64 = 0x048;
    /// Interrupt enables.
    pub const IRQ_CTRL: u64 = 0x050;
    /// What of the interrupt enables has taken effect.
    pub const IRQ_CTRLACK: u64 = 0x054;
    /// Global errors: a bit that differs from GERRORN's is an active error.
    pub const GERROR: u64 = 0x060;
    /// Acknowledges global errors.
    pub const GERRORN: u64 = 0x064;
    /// Global error MSI address, 64 bits.
    pub const GERROR_IRQ_CFG0: u64 = 0x068;
    /// Global error MSI data.
    pub const GERROR_IRQ_CFG1: u64 = 0x070;
    /// Global error MSI attributes.
    pub const GERROR_IRQ_CFG2: u64 = 0x074;
    /// Stream table base, 64 bits.
    pub const STRTAB_BASE: u64 = 0x080;
    /// Stream table configuration.
    pub const STRTAB_BASE_CFG: u64 = 0x088;
    /// Command queue base, 64 bits.
    pub const CMDQ_BASE: u64 = 0x090;
    /// Command queue producer.
    pub const CMDQ_PROD: u64 = 0x098;
    /// Command queue consumer.
    pub const CMDQ_CONS: u64 = 0x09c;
    /// Event queue base, 64 bits.
    pub const EVENTQ_BASE: u64 = 0x0a0;
    /// Event queue producer's alias in page 0 (SMMUv3 6.2: optional; the register itself is in page 1).
    pub const EVENTQ_PROD_ALIAS: u64 = 0x0a8;
    /// Event queue consumer's alias in page 0.
    pub const EVENTQ_CONS_ALIAS: u64 = 0x0ac;
    /// Event queue MSI address, 64 bits.
    pub const EVENTQ_IRQ_CFG0: u64 = 0x0b0;
    /// Event queue MSI data.
    pub const EVENTQ_IRQ_CFG1: u64 = 0x0b8;
    /// Event queue MSI attributes.
    pub const EVENTQ_IRQ_CFG2: u64 = 0x0bc;
    /// PRI queue base, 64 bits.
    pub const PRIQ_BASE: u64 = 0x0c0;
    /// PRI queue producer's alias in page 0.
    pub const PRIQ_PROD_ALIAS: u64 = 0x0c8;
    /// PRI queue consumer's alias in page 0.
    pub const PRIQ_CONS_ALIAS: u64 = 0x0cc;
    /// PRI queue MSI address, 64 bits.
    pub const PRIQ_IRQ_CFG0: u64 = 0x0d0;
    /// PRI queue MSI data.
    pub const PRIQ_IRQ_CFG1: u64 = 0x0d8;
    /// PRI queue MSI attributes.
    pub const PRIQ_IRQ_CFG2: u64 = 0x0dc;
    /// Address translation operation: start.
    pub const GATOS_CTRL: u64 = 0x100;
    /// Address translation operation: stream, 64 bits.
    pub const GATOS_SID: u64 = 0x108;
    /// Address translation operation: input, 64 bits.
    pub const GATOS_ADDR: u64 = 0x110;
    /// Address translation operation: result, 64 bits.
    pub const GATOS_PAR: u64 = 0x118;
    /// Peripheral identification and component registers, to 0xfff.
    pub const ID_REGS: u64 = 0xfd0;
    /// Event queue producer (page 1).
    pub const EVENTQ_PROD: u64 = 0x1_00a8;
    /// Event queue consumer (page 1).
    pub const EVENTQ_CONS: u64 = 0x1_00ac;
    /// PRI queue producer (page 1).
    pub const PRIQ_PROD: u64 = 0x1_00c8;
    /// PRI queue consumer (page 1).
    pub const PRIQ_CONS: u64 = 0x1_00cc;
}

/// `SMMU_IDR0` (SMMUv3 6.3.1).
#[bitfield(u32)]
#[derive(PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct Idr0 {
    /// Stage 2.
    pub s2p: bool,
    /// Stage 1.
    pub s1p: bool,
    /// Translation table formats: bit 0 AArch32, bit 1 AArch64.
    #[bits(2)]
    pub ttf: u8,
    /// Coherent access to tables and queues.
    pub cohacc: bool,
    /// Broadcast TLB maintenance.
    pub btm: bool,
    /// Hardware update of flags: 0 none, 1 Access, 2 Access and dirty, 3 those and Access in table descriptors.
    #[bits(2)]
    pub httu: u8,
    /// Dormant hint.
    pub dormhint: bool,
    /// EL2 stage 1 contexts.
    pub hyp: bool,
    /// PCIe ATS.
    pub ats: bool,
    /// Split-stage ATS is not supported.
    pub ns1ats: bool,
    /// 16-bit ASIDs.
    pub asid16: bool,
    /// MSIs.
    pub msi: bool,
    /// WFE wake-up events.
    pub sev: bool,
    /// Address translation operations.
    pub atos: bool,
    /// PCIe PRI.
    pub pri: bool,
    /// VMID wildcards.
    pub vmw: bool,
    /// 16-bit VMIDs.
    pub vmid16: bool,
    /// 2-level context descriptor tables.
    pub cd2l: bool,
    /// VATOS page.
    pub vatos: bool,
    /// Byte orders of translation tables: 0 both, 2 little, 3 big.
    #[bits(2)]
    pub ttendian: u8,
    /// Errors in ATS translated transactions can be recorded.
    pub atsrecerr: bool,
    /// 0 stall and terminate, 1 terminate only, 2 stall only.
    #[bits(2)]
    pub stall_model: u8,
    /// Terminated transactions always abort: RAZ/WI is not supported.
    pub term_model: bool,
    /// 0 linear stream tables only, 1 two-level too.
    #[bits(2)]
    pub st_level: u8,
    __: bool,
    /// Realm management extension.
    pub rme_impl: bool,
    __: bool,
}

/// `SMMU_IDR1` (SMMUv3 6.3.2).
#[bitfield(u32)]
#[derive(PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct Idr1 {
    /// StreamID bits.
    #[bits(6)]
    pub sidsize: u8,
    /// SubstreamID bits, at most 20.
    #[bits(5)]
    pub ssidsize: u8,
    /// log2 of the most PRI queue entries.
    #[bits(5)]
    pub priqs: u8,
    /// log2 of the most event queue entries.
    #[bits(5)]
    pub eventqs: u8,
    /// log2 of the most command queue entries.
    #[bits(5)]
    pub cmdqs: u8,
    /// Incoming permission attributes can be overridden.
    pub attr_perms_ovr: bool,
    /// Incoming memory attributes can be overridden.
    pub attr_types_ovr: bool,
    /// Preset base addresses are relative to the register base.
    pub rel: bool,
    /// Queue bases are preset.
    pub queues_preset: bool,
    /// The stream table base is preset.
    pub tables_preset: bool,
    /// Enhanced command queues.
    pub ecmdq: bool,
}

/// `SMMU_IDR3` (SMMUv3 6.3.4).
#[bitfield(u32)]
#[derive(PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct Idr3 {
    #[bits(2)]
    __: u8,
    /// Hierarchical attributes can be disabled (CD.HADn).
    pub had: bool,
    /// Page-based hardware attributes.
    pub pbha: bool,
    /// EL0/EL1 execute control in stage 2.
    pub xnx: bool,
    /// PASIDs in auto-generated PRI responses.
    pub pps: bool,
    __: bool,
    /// Memory partitioning and monitoring.
    pub mpam: bool,
    /// Stage 2 forced write-back.
    pub fwb: bool,
    /// Small translation tables.
    pub stt: bool,
    /// Range invalidation and level hints.
    pub ril: bool,
    /// Break-before-make level.
    #[bits(2)]
    pub bbml: u8,
    /// EL0 protection (CD.E0PDn).
    pub e0pd: bool,
    /// Device-type table walks behave as Normal Non-cacheable.
    pub ptwnnc: bool,
    /// Device permission table.
    pub dpt: bool,
    __: u16,
}

/// `SMMU_IDR5` (SMMUv3 6.3.6).
#[bitfield(u32)]
#[derive(PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct Idr5 {
    /// Output address size; see [`address_bits`].
    #[bits(3)]
    pub oas: u8,
    __: bool,
    /// 4 KiB granule.
    pub gran4k: bool,
    /// 16 KiB granule.
    pub gran16k: bool,
    /// 64 KiB granule.
    pub gran64k: bool,
    /// 52-bit addresses with 4 KiB and 16 KiB granules.
    pub ds: bool,
    /// 128-bit descriptors.
    pub d128: bool,
    __: bool,
    /// Virtual address extension: 0 up to 48 bits, 1 up to 52.
    #[bits(2)]
    pub vax: u8,
    #[bits(4)]
    __: u8,
    /// The most stalled transactions.
    pub stall_max: u16,
}

/// Address bits that an OAS, IPS or S2PS field stands for; 7 is reserved and behaves as 6 (SMMUv3 5.2, S2PS).
#[must_use]
pub const fn address_bits(field: u8) -> u8 {
    match field & 7 {
        0 => 32,
        1 => 36,
        2 => 40,
        3 => 42,
        4 => 44,
        5 => 48,
        _ => 52,
    }
}

/// The OAS, IPS or S2PS field for `bits` address bits, or `None` where there is none.
#[must_use]
pub const fn address_size_field(bits: u8) -> Option<u8> {
    Some(match bits {
        32 => 0,
        36 => 1,
        40 => 2,
        42 => 3,
        44 => 4,
        48 => 5,
        52 => 6,
        _ => return None,
    })
}

/// `SMMU_CR0` and `SMMU_CR0ACK` (SMMUv3 6.3.9, 6.3.10).
#[bitfield(u32)]
#[derive(PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct Cr0 {
    /// Translate.
    pub smmuen: bool,
    /// PRI queue enable.
    pub priqen: bool,
    /// Event queue enable.
    pub eventqen: bool,
    /// Command queue enable.
    pub cmdqen: bool,
    /// Check ATS translated transactions.
    pub atschk: bool,
    __: bool,
    /// VMID wildcard.
    #[bits(3)]
    pub vmw: u8,
    #[bits(23)]
    __: u32,
}

/// `SMMU_CR1` (SMMUv3 6.3.11).
#[bitfield(u32)]
#[derive(PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct Cr1 {
    /// Queue inner cacheability: 0 non-cacheable, 1 write-back, 2 write-through.
    #[bits(2)]
    pub queue_ic: u8,
    /// Queue outer cacheability.
    #[bits(2)]
    pub queue_oc: u8,
    /// Queue shareability: 0 non, 2 outer, 3 inner.
    #[bits(2)]
    pub queue_sh: u8,
    /// Table inner cacheability.
    #[bits(2)]
    pub table_ic: u8,
    /// Table outer cacheability.
    #[bits(2)]
    pub table_oc: u8,
    /// Table shareability.
    #[bits(2)]
    pub table_sh: u8,
    #[bits(20)]
    __: u32,
}

/// `SMMU_CR2` (SMMUv3 6.3.12).
#[bitfield(u32)]
#[derive(PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct Cr2 {
    /// EL2 contexts are EL2&0.
    pub e2h: bool,
    /// Record C_BAD_STREAMID.
    pub recinvsid: bool,
    /// Private TLB maintenance: ignore broadcasts.
    pub ptm: bool,
    /// Record configuration errors of ATS translated transactions.
    pub rec_cfg_ats: bool,
    #[bits(28)]
    __: u32,
}

/// `SMMU_GBPA`: what becomes of transactions while translation is disabled (SMMUv3 6.3.14).
#[bitfield(u32)]
#[derive(PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct Gbpa {
    /// Memory attribute override.
    #[bits(4)]
    pub memattr: u8,
    /// Use `memattr`.
    pub mtcfg: bool,
    #[bits(3)]
    __: u8,
    /// Allocation hints.
    #[bits(4)]
    pub alloccfg: u8,
    /// Shareability: 1 as incoming.
    #[bits(2)]
    pub shcfg: u8,
    #[bits(2)]
    __: u8,
    /// Privilege override: 0 as incoming, 2 unprivileged, 3 privileged.
    #[bits(2)]
    pub privcfg: u8,
    /// Instruction override: 0 as incoming, 2 data, 3 instruction.
    #[bits(2)]
    pub instcfg: u8,
    /// Abort all transactions.
    pub abort: bool,
    #[bits(10)]
    __: u16,
    /// Set to update; clear when the update has taken effect.
    pub update: bool,
}

/// `SMMU_IRQ_CTRL` and `SMMU_IRQ_CTRLACK` (SMMUv3 6.3.16, 6.3.17).
#[bitfield(u32)]
#[derive(PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct IrqCtrl {
    /// Global errors.
    pub gerror_irqen: bool,
    /// PRI queue.
    pub priq_irqen: bool,
    /// Event queue.
    pub eventq_irqen: bool,
    #[bits(29)]
    __: u32,
}

/// `SMMU_GERROR` and `SMMU_GERRORN` (SMMUv3 6.3.18, 6.3.19).
#[bitfield(u32)]
#[derive(PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct Gerror {
    /// Command queue error: see CMDQ_CONS.ERR.
    pub cmdq_err: bool,
    __: bool,
    /// An event could not be written.
    pub eventq_abt_err: bool,
    /// A page request could not be written.
    pub priq_abt_err: bool,
    /// A CMD_SYNC MSI could not be written.
    pub msi_cmdq_abt_err: bool,
    /// An event queue MSI could not be written.
    pub msi_eventq_abt_err: bool,
    /// A PRI queue MSI could not be written.
    pub msi_priq_abt_err: bool,
    /// A global error MSI could not be written.
    pub msi_gerror_abt_err: bool,
    /// Service failure mode.
    pub sfm_err: bool,
    /// An enhanced command queue control page error.
    pub cmdqp_err: bool,
    /// A device permission table lookup error.
    pub dpt_err: bool,
    #[bits(21)]
    __: u32,
}

/// `SMMU_*_IRQ_CFG0`: the address of an MSI (SMMUv3 6.3.20). Zero sends none.
#[bitfield(u64)]
#[derive(PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct IrqCfg0 {
    #[bits(2)]
    __: u8,
    /// Address bits 55:2.
    #[bits(54)]
    pub addr: u64,
    #[bits(8)]
    __: u8,
}

/// `SMMU_*_IRQ_CFG2`: the memory attributes of an MSI (SMMUv3 6.3.22). Bit 31 is LO, for PRI queues only.
#[bitfield(u32)]
#[derive(PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct IrqCfg2 {
    /// Memory type.
    #[bits(4)]
    pub memattr: u8,
    /// Shareability.
    #[bits(2)]
    pub sh: u8,
    #[bits(25)]
    __: u32,
    /// Interrupt only for the last of a page-request group (`SMMU_PRIQ_IRQ_CFG2` alone).
    pub lo: bool,
}

/// `SMMU_STRTAB_BASE` (SMMUv3 6.3.23).
#[bitfield(u64)]
#[derive(PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct StrtabBase {
    #[bits(6)]
    __: u8,
    /// Address bits 55:6.
    #[bits(50)]
    pub addr: u64,
    #[bits(6)]
    __: u8,
    /// Read-allocate hint.
    pub ra: bool,
    __: bool,
}

/// `SMMU_STRTAB_BASE_CFG` (SMMUv3 6.3.24).
#[bitfield(u32)]
#[derive(PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct StrtabBaseCfg {
    /// log2 of the StreamIDs that the table covers.
    #[bits(6)]
    pub log2size: u8,
    /// StreamID bits that index a second-level table: 6, 8 or 10.
    #[bits(5)]
    pub split: u8,
    #[bits(5)]
    __: u8,
    /// 0 linear, 1 two-level.
    #[bits(2)]
    pub fmt: u8,
    #[bits(14)]
    __: u16,
}

/// `SMMU_CMDQ_BASE`, `SMMU_EVENTQ_BASE`, `SMMU_PRIQ_BASE` (SMMUv3 6.3.25, 6.3.28, 6.3.34).
#[bitfield(u64)]
#[derive(PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct QueueBase {
    /// log2 of the entries.
    #[bits(5)]
    pub log2size: u8,
    /// Address bits 55:5.
    #[bits(51)]
    pub addr: u64,
    #[bits(6)]
    __: u8,
    /// Read-allocate hint (command queue), write-allocate (event and PRI queue).
    pub ra_wa: bool,
    __: bool,
}

/// `SMMU_CMDQ_CONS` (SMMUv3 6.3.27).
#[bitfield(u32)]
#[derive(PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct CmdqCons {
    /// Index and wrap bit.
    #[bits(20)]
    pub rd: u32,
    #[bits(4)]
    __: u8,
    /// Why the command at `rd` was not consumed; see [`CommandQueueError`]. Meaningful while GERROR.CMDQ_ERR is active.
    #[bits(7)]
    pub err: u8,
    __: bool,
}

/// `SMMU_EVENTQ_PROD`, `SMMU_EVENTQ_CONS` and the PRI queue's (SMMUv3 6.3.30, 6.3.31).
#[bitfield(u32)]
#[derive(PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct EventqIndex {
    /// Index and wrap bit.
    #[bits(20)]
    pub index: u32,
    #[bits(11)]
    __: u16,
    /// Overflow flag (`ovflg`) of the producer, its acknowledgement (`ovackflg`) of the consumer: overflowed while they
    /// differ.
    pub overflow: bool,
}

/// CMDQ_CONS.ERR (SMMUv3 7.1).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum CommandQueueError {
    /// CERROR_NONE.
    None = 0,
    /// CERROR_ILL: an illegal command.
    Ill = 1,
    /// CERROR_ABT: the command could not be read.
    Abt = 2,
    /// CERROR_ATC_INV_SYNC: a CMD_SYNC failed because an ATC invalidation timed out.
    AtcInvSync = 3,
}

/// `SMMU_GATOS_CTRL` (SMMUv3 6.3.37).
#[bitfield(u32)]
#[derive(PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct GatosCtrl {
    /// Set to start; clear when done.
    pub run: bool,
    #[bits(31)]
    __: u32,
}

/// `SMMU_GATOS_SID` (SMMUv3 6.3.38).
#[bitfield(u64)]
#[derive(PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct GatosSid {
    /// StreamID.
    pub streamid: u32,
    /// SubstreamID.
    #[bits(20)]
    pub substreamid: u32,
    /// `substreamid` is valid.
    pub ssid_valid: bool,
    #[bits(11)]
    __: u16,
}

/// `SMMU_GATOS_ADDR` (SMMUv3 6.3.39).
#[bitfield(u64)]
#[derive(PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct GatosAddr {
    #[bits(6)]
    __: u8,
    /// Hardware update of flags is inhibited.
    pub httui: bool,
    /// Instruction.
    pub ind: bool,
    /// Read.
    pub rnw: bool,
    /// Privileged.
    pub pnu: bool,
    /// 1 stage 1 (VA to IPA), 2 stage 2 (IPA to PA), 3 both (VA to PA).
    #[bits(2)]
    pub r#type: u8,
    /// Address bits 63:12.
    #[bits(52)]
    pub addr: u64,
}

/// `SMMU_GATOS_PAR` after success (SMMUv3 6.3.40).
#[bitfield(u64)]
#[derive(PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct GatosPar {
    /// 0.
    pub fault: bool,
    #[bits(7)]
    __: u8,
    /// Shareability.
    #[bits(2)]
    pub sh: u8,
    __: bool,
    /// The page is larger than 4 KiB: its size is encoded in `addr` by its lowest set bit.
    pub size: bool,
    /// Address bits 55:12.
    #[bits(44)]
    pub addr: u64,
    /// Memory attributes, as MAIR_ELx encodes them.
    pub attr: u8,
}

/// `SMMU_GATOS_PAR` after a fault (SMMUv3 6.3.40).
#[bitfield(u64)]
#[derive(PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct GatosParFault {
    /// 1.
    pub fault: bool,
    /// 0 stage 1, or no stage; 1 stage 2 of a CD fetch, 2 of a stage 1 table walk, 3 of the input.
    #[bits(2)]
    pub reason: u8,
    __: bool,
    /// Event number, or an ATOS error (0xfd to 0xff).
    pub faultcode: u8,
    /// Stage 2 input, address bits 55:12.
    #[bits(44)]
    pub faddr: u64,
    /// Implementation defined.
    #[bits(8)]
    pub impdef: u8,
}

#[cfg(test)]
mod tests {
    use super::*;

    // Values from Linux, drivers/iommu/arm/arm-smmu-v3/arm-smmu-v3.h.
    #[test]
    fn fields_stand_where_linux_has_them() {
        assert_eq!(Idr0::new().with_st_level(1).into_bits(), 1 << 27);
        assert_eq!(Idr0::new().with_stall_model(2).into_bits(), 2 << 24);
        assert_eq!(Idr0::new().with_ttendian(2).into_bits(), 2 << 21);
        assert_eq!(Idr0::new().with_cd2l(true).with_vmid16(true).into_bits(), 3 << 18);
        assert_eq!(Idr0::new().with_pri(true).into_bits(), 1 << 16);
        assert_eq!(Idr0::new().with_msi(true).with_sev(true).into_bits(), 3 << 13);
        assert_eq!(Idr0::new().with_hyp(true).with_ats(true).into_bits(), 3 << 9);
        assert_eq!(Idr1::new().with_cmdqs(0x1f).into_bits(), 0x1f << 21);
        assert_eq!(Idr1::new().with_ssidsize(0x1f).into_bits(), 0x1f << 6);
        assert_eq!(Idr3::new().with_ril(true).into_bits(), 1 << 10);
        assert_eq!(Idr5::new().with_vax(1).into_bits(), 1 << 10);
        assert_eq!(Idr5::new().with_gran4k(true).with_gran16k(true).with_gran64k(true).into_bits(), 7 << 4);
        assert_eq!(Cr0::new().with_atschk(true).with_cmdqen(true).into_bits(), 3 << 3);
        assert_eq!(Cr1::new().with_table_sh(3).with_queue_ic(1).into_bits(), 3 << 10 | 1);
        assert_eq!(Cr2::new().with_ptm(true).with_recinvsid(true).into_bits(), 3 << 1);
        assert_eq!(Gbpa::new().with_update(true).with_abort(true).into_bits(), 1 << 31 | 1 << 20);
        assert_eq!(Gerror::new().with_sfm_err(true).with_cmdq_err(true).into_bits(), 1 << 8 | 1);
        assert_eq!(StrtabBaseCfg::new().with_fmt(1).with_split(8).into_bits(), 1 << 16 | 8 << 6);
        assert_eq!(CmdqCons::new().with_err(0x7f).into_bits(), 0x7f << 24);
        assert_eq!(QueueBase::new().with_ra_wa(true).into_bits(), 1 << 62);
    }
}
