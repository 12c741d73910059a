//! What is said over the socket: parameters and replies of `org.portcullis.Manager`, as its interface file describes them.

mod access;
mod calls;
mod things;

pub use access::Access;
pub use calls::*;
pub use things::*;

/// The interface's name.
pub const INTERFACE: &str = "org.portcullis.Manager";

/// The interface's description in varlink's language.
pub const DESCRIPTION: &str = include_str!("../org.portcullis.Manager.varlink");

/// Where the service listens unless told otherwise.
pub const SOCKET: &str = "/run/portcullis/org.portcullis.Manager";

/// Bytes of one message, in either direction; longer ones are refused.
pub const MESSAGE_LIMIT: usize = 4 << 20;

/// Descriptors that come with one message.
pub const DESCRIPTOR_LIMIT: usize = 16;
/// Requests refuse fields that they do not know; replies ignore them, so that an older client understands a newer service.
macro_rules! message {
    ($($(#[$doc:meta])* $name:ident { $($(#[$field_doc:meta])* $field:ident: $type:ty,)* })*) => {
        $(
            #[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
            #[serde(rename_all = "camelCase")]
            $(#[$doc])*
            pub struct $name {
                $(
                    $(#[$field_doc])*
                    #[serde(skip_serializing_if = "Skip::skip")]
                    pub $field: $type,
                )*
            }
        )*
    };
}

/// Which fields are left out of a message: options without a value.
trait Skip {
    fn skip(&self) -> bool {
        false
    }
}

impl<T> Skip for Option<T> {
    fn skip(&self) -> bool {
        self.is_none()
    }
}

impl Skip for u64 {}
impl Skip for u32 {}
impl Skip for bool {}
impl Skip for String {}
impl Skip for Access {}
impl<T> Skip for Vec<T> {}

use message;
