//! The translation-request interface (RISC-V IOMMU 4, 5.24 to 5.26).

use portcullis_spec::riscv::registers::{TrReqCtl, TrResponse, offset};
use portcullis_spec::{
    Access, Cacheability, Iova, Pasid, PhysAddr, RequestType, Requester, Transaction, Translation,
};

use super::RiscvUnit;
use crate::registers::{half, put_half};
use crate::state::locked;

/// The registers.
#[derive(Clone, Copy, Debug, Default, serde::Serialize, serde::Deserialize)]
pub(super) struct Debug {
    /// `tr_req_iova`.
    iova: u64,
    /// `tr_req_ctl`; Go/Busy always reads 0, for requests are done when they are made.
    control: TrReqCtl,
    /// `tr_response`.
    response: TrResponse,
}

impl Debug {
    /// Reads the doubleword at `at`.
    pub(super) fn read32(&self, at: u64) -> u32 {
        match at & !7 {
            offset::TR_REQ_IOVA => half(self.iova, at),
            offset::TR_REQ_CTL => half(self.control.into_bits(), at),
            _ => half(self.response.into_bits(), at),
        }
    }
}

/// Software writes one of the registers; the low half of `tr_req_ctl` holds Go/Busy.
pub(super) fn write32(unit: &RiscvUnit, at: u64, value: u32) {
    let mut debug = locked(&unit.model().debug);
    match at & !7 {
        offset::TR_REQ_IOVA => {
            put_half(&mut debug.iova, at, value);
            debug.iova &= !0xfff;
        }
        offset::TR_REQ_CTL => {
            let mut bits = debug.control.into_bits();
            put_half(&mut bits, at, value);
            let written = TrReqCtl::from_bits(bits);
            debug.control = TrReqCtl::new()
                .with_priv(written.r#priv())
                .with_exe(written.exe())
                .with_nw(written.nw())
                .with_pid(written.pid())
                .with_pv(written.pv())
                .with_did(written.did());
            if written.go_busy() {
                debug.response = translate(unit, debug.iova, debug.control);
            }
        }
        _ => {}
    }
}

fn translate(unit: &RiscvUnit, iova: u64, control: TrReqCtl) -> TrResponse {
    let pasid = Pasid::new(control.pid()).filter(|_| control.pv());
    let mut access = Access::READ;
    access.set(Access::EXECUTE, control.exe());
    access.set(Access::WRITE, !control.nw());
    let transaction = Transaction {
        requester: Requester::Device(control.did()),
        pasid,
        address: Iova(iova),
        length: 1,
        access,
        privileged: control.r#priv() && pasid.is_some(),
        request_type: RequestType::Untranslated,
    };
    match unit.port(control.did(), pasid).translate(&transaction) {
        Ok(translation) => response(&translation),
        Err(_) => TrResponse::new().with_fault(true),
    }
}

/// 5.26: the size of a superpage is encoded in the page number.
fn response(translation: &Translation) -> TrResponse {
    let Translation { address: PhysAddr(address), page_shift, attributes, .. } = *translation;
    let pbmt = match attributes.cacheability {
        Cacheability::NonCacheable => 1,
        Cacheability::Uncacheable => 2,
        _ => 0,
    };
    let large = page_shift > 12;
    let size = if large { (1u64 << (page_shift - 12)) - 1 } else { 0 };
    let ppn = (address >> 12) & !size | size >> 1;
    TrResponse::new().with_pbmt(pbmt).with_s(large).with_ppn(ppn & ((1 << 44) - 1))
}
