//! Protected memory registers (VT-d 11.4.8).

use bitfield_struct::bitfield;

/// PMEN_REG (VT-d 11.4.8.1): protected memory enable.
#[bitfield(u32)]
#[derive(PartialEq, Eq, Hash)]
pub struct Pmen {
    /// Protected region status: protection is in force; read-only.
    pub prs: bool,
    #[bits(30)]
    __: u32,
    /// Enable protected memory.
    pub epm: bool,
}

macro_rules! region {
    ($(#[$doc:meta])* $name:ident, $word:ty) => {
        $(#[$doc])*
        ///
        /// How many low bits are reserved depends on the hardware's alignment; software finds it by writing ones
        /// and reading back.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
        #[repr(transparent)]
        pub struct $name($word);

        impl $name {
            /// From the register's value.
            #[must_use]
            pub const fn from_bits(bits: $word) -> Self {
                Self(bits)
            }

            /// The register's value.
            #[must_use]
            pub const fn into_bits(self) -> $word {
                self.0
            }
        }
    };
}

region! {
    /// PLMBASE_REG (VT-d 11.4.8.2): first byte of the protected low region.
    Plmbase, u32
}
region! {
    /// PLMLIMIT_REG (VT-d 11.4.8.3): the last protected block of the low region; its low bits count as ones.
    Plmlimit, u32
}
region! {
    /// PHMBASE_REG (VT-d 11.4.8.4): first byte of the protected high region.
    Phmbase, u64
}
region! {
    /// PHMLIMIT_REG (VT-d 11.4.8.5): the last protected block of the high region; its low bits count as ones.
    Phmlimit, u64
}
