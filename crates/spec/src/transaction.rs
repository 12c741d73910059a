//! What a device asks of the IOMMU.

use crate::{Iova, Pasid, Requester};

bitflags::bitflags! {
    /// What a transaction does, or what a translation permits.
    #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, serde::Serialize, serde::Deserialize)]
    pub struct Access: u8 {
        /// Reads memory.
        const READ = 1;
        /// Writes memory.
        const WRITE = 2;
        /// Fetches instructions (PCIe "execute requested").
        const EXECUTE = 4;
        /// An atomic operation; asked for together with `READ` and `WRITE`.
        const ATOMIC = 8;
        /// Reads and writes.
        const READ_WRITE = 3;
    }
}

/// The type of a PCIe memory request (the AT field), with the same meaning elsewhere.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, serde::Serialize, serde::Deserialize)]
pub enum RequestType {
    /// Carries an address to be translated.
    #[default]
    Untranslated,
    /// Asks for a translation without touching memory (ATS).
    TranslationRequest,
    /// Carries an address that the device has translated before (ATS).
    Translated,
}

/// One memory request from a device.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, serde::Serialize, serde::Deserialize)]
pub struct Transaction {
    /// Who sends it.
    pub requester: Requester,
    /// The process address space, where the request carries one.
    pub pasid: Option<Pasid>,
    /// First byte.
    pub address: Iova,
    /// Bytes. May cross pages; zero-length reads are a PCIe fact and allowed.
    pub length: u64,
    /// What it does.
    pub access: Access,
    /// Whether it asks for privileged (supervisor) rights.
    pub privileged: bool,
    /// Untranslated, translation request, or translated.
    pub request_type: RequestType,
}
