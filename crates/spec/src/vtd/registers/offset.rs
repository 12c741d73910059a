//! Register offsets in bytes from the register base (VT-d 11.1, table of registers).

/// VER_REG, 32 bits: version.
pub const VER: u64 = 0x000;
/// CAP_REG, 64 bits: capabilities.
pub const CAP: u64 = 0x008;
/// ECAP_REG, 64 bits: extended capabilities.
pub const ECAP: u64 = 0x010;
/// GCMD_REG, 32 bits: global command.
pub const GCMD: u64 = 0x018;
/// GSTS_REG, 32 bits: global status.
pub const GSTS: u64 = 0x01c;
/// RTADDR_REG, 64 bits: root table address.
pub const RTADDR: u64 = 0x020;
/// CCMD_REG, 64 bits: context command.
pub const CCMD: u64 = 0x028;
/// FSTS_REG, 32 bits: fault status.
pub const FSTS: u64 = 0x034;
/// FECTL_REG, 32 bits: fault event control.
pub const FECTL: u64 = 0x038;
/// FEDATA_REG, 32 bits: fault event data.
pub const FEDATA: u64 = 0x03c;
/// FEADDR_REG, 32 bits: fault event address.
pub const FEADDR: u64 = 0x040;
/// FEUADDR_REG, 32 bits: fault event upper address.
pub const FEUADDR: u64 = 0x044;
/// AFLOG_REG, 64 bits: advanced fault log.
pub const AFLOG: u64 = 0x058;
/// PMEN_REG, 32 bits: protected memory enable.
pub const PMEN: u64 = 0x064;
/// PLMBASE_REG, 32 bits: protected low memory base.
pub const PLMBASE: u64 = 0x068;
/// PLMLIMIT_REG, 32 bits: protected low memory limit.
pub const PLMLIMIT: u64 = 0x06c;
/// PHMBASE_REG, 64 bits: protected high memory base.
pub const PHMBASE: u64 = 0x070;
/// PHMLIMIT_REG, 64 bits: protected high memory limit.
pub const PHMLIMIT: u64 = 0x078;
/// IQH_REG, 64 bits: invalidation queue head.
pub const IQH: u64 = 0x080;
/// IQT_REG, 64 bits: invalidation queue tail.
pub const IQT: u64 = 0x088;
/// IQA_REG, 64 bits: invalidation queue address.
pub const IQA: u64 = 0x090;
/// ICS_REG, 32 bits: invalidation completion status.
pub const ICS: u64 = 0x09c;
/// IECTL_REG, 32 bits: invalidation event control.
pub const IECTL: u64 = 0x0a0;
/// IEDATA_REG, 32 bits: invalidation event data.
pub const IEDATA: u64 = 0x0a4;
/// IEADDR_REG, 32 bits: invalidation event address.
pub const IEADDR: u64 = 0x0a8;
/// IEUADDR_REG, 32 bits: invalidation event upper address.
pub const IEUADDR: u64 = 0x0ac;
/// IQERCD_REG, 64 bits: invalidation queue error record.
pub const IQERCD: u64 = 0x0b0;
/// IRTA_REG, 64 bits: interrupt remapping table address.
pub const IRTA: u64 = 0x0b8;
/// PQH_REG, 64 bits: page request queue head.
pub const PQH: u64 = 0x0c0;
/// PQT_REG, 64 bits: page request queue tail.
pub const PQT: u64 = 0x0c8;
/// PQA_REG, 64 bits: page request queue address.
pub const PQA: u64 = 0x0d0;
/// PRS_REG, 32 bits: page request status.
pub const PRS: u64 = 0x0dc;
/// PECTL_REG, 32 bits: page request event control.
pub const PECTL: u64 = 0x0e0;
/// PEDATA_REG, 32 bits: page request event data.
pub const PEDATA: u64 = 0x0e4;
/// PEADDR_REG, 32 bits: page request event address.
pub const PEADDR: u64 = 0x0e8;
/// PEUADDR_REG, 32 bits: page request event upper address.
pub const PEUADDR: u64 = 0x0ec;
/// MTRRCAP_REG, 64 bits: MTRR capabilities.
pub const MTRRCAP: u64 = 0x100;
/// MTRRDEF_REG, 64 bits: MTRR default type.
pub const MTRRDEF: u64 = 0x108;
/// First of the fixed-range MTRRs (64K_00000, 16K_80000, 16K_A0000, 4K_C0000 to 4K_F8000), 64 bits each.
pub const MTRR_FIX64K_00000: u64 = 0x120;
/// First of the ten pairs of variable-range MTRRs (PHYSBASE0, PHYSMASK0, …), 64 bits each.
pub const MTRR_PHYSBASE0: u64 = 0x180;
/// PERFCAP_REG, 64 bits: performance monitoring capabilities.
pub const PERFCAP: u64 = 0x300;
/// PERFCFGOFF_REG, 32 bits.
pub const PERFCFGOFF: u64 = 0x310;
/// PERFOVFOFF_REG, 32 bits.
pub const PERFOVFOFF: u64 = 0x318;
/// PERFCNTROFF_REG, 32 bits.
pub const PERFCNTROFF: u64 = 0x31c;
/// PERFINTRSTS_REG, 32 bits.
pub const PERFINTRSTS: u64 = 0x324;
/// PERFINTRCTL_REG, 32 bits.
pub const PERFINTRCTL: u64 = 0x328;
/// PERFEVNTCAP_REG, 64 bits.
pub const PERFEVNTCAP: u64 = 0x380;
/// ECMD_REG, 64 bits: enhanced command.
pub const ECMD: u64 = 0x400;
/// ECEO_REG, 64 bits: enhanced command extended operand.
pub const ECEO: u64 = 0x408;
/// ECRSP_REG, 64 bits: enhanced command response.
pub const ECRSP: u64 = 0x410;
/// ECCAP_REG, first of four, 64 bits each: enhanced command capabilities.
pub const ECCAP: u64 = 0x430;
/// VCCAP_REG, 64 bits: virtual command capabilities.
pub const VCCAP: u64 = 0xe00;
/// VCMD_REG, 64 bits: virtual command.
pub const VCMD: u64 = 0xe10;
/// VCRSP_REG, 64 bits: virtual command response.
pub const VCRSP: u64 = 0xe20;

/// IVA_REG, 64 bits, relative to `ECAP.IRO * 16`.
pub const IVA_FROM_IRO: u64 = 0x0;
/// IOTLB_REG, 64 bits, relative to `ECAP.IRO * 16`.
pub const IOTLB_FROM_IRO: u64 = 0x8;
/// Bytes from one fault recording register to the next; the first lies at `CAP.FRO * 16`.
pub const FRCD_SIZE: u64 = 16;
